"""Samplers: what they leave of a distribution, against torch's softmax and sums written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nanogpt_kit.api import Sampler
from nanogpt_kit.components.sampler.temperature import Temperature
from nanogpt_kit.components.sampler.top_k import TopK

B, V, T = 3, 11, 5


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(B, V, generator=torch.Generator().manual_seed(1)) * 3


def apply(sampler: Sampler, logits: Tensor) -> Tensor:
    return sampler.transform(logits, torch.zeros(B, T, dtype=torch.int64))


@pytest.mark.parametrize("value", [0.3, 0.8, 1.0, 2.5])
def test_temperature_divides_the_logits(logits: Tensor, value: float) -> None:
    weights = [[math.exp(logit / value) for logit in row] for row in logits.double().tolist()]
    expected = torch.tensor([[weight / sum(row) for weight in row] for row in weights])
    torch.testing.assert_close(apply(Temperature(value=value), logits).softmax(-1), expected)
    torch.testing.assert_close(apply(Temperature(value=value), logits).softmax(-1), (logits / value).softmax(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [0.0, 1e-320, 1e-40, 1e-6])
def test_a_temperature_near_zero_is_greedy_and_never_nan(logits: Tensor, value: float, dtype: torch.dtype) -> None:
    probabilities = apply(Temperature(value=value), logits.to(dtype)).softmax(-1)
    expected = torch.nn.functional.one_hot(logits.argmax(-1), V).to(dtype)
    torch.testing.assert_close(probabilities, expected, rtol=0, atol=0)


def test_greedy_takes_one_of_two_equally_likely_tokens() -> None:
    probabilities = apply(Temperature(value=0), torch.tensor([[1.0, 4.0, 4.0]])).softmax(-1)
    assert sorted(probabilities[0].tolist()) == [0, 0, 1]


@pytest.mark.parametrize("value", [0.0, 1e-40, 0.7])
def test_temperature_leaves_forbidden_tokens_forbidden(logits: Tensor, value: float) -> None:
    logits[:, 4] = float("-inf")
    probabilities = apply(Temperature(value=value), logits).softmax(-1)
    assert (probabilities[:, 4] == 0).all()
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(B))


@pytest.mark.parametrize("k", [1, 2, 7, V, V + 1, 200])
def test_top_k_keeps_the_k_likeliest_in_proportion(logits: Tensor, k: int) -> None:
    expected = torch.zeros(B, V)
    for row, chances in enumerate(logits.exp().tolist()):
        kept = sorted(range(V), key=lambda token: chances[token], reverse=True)[:k]
        for token in kept:
            expected[row, token] = chances[token] / sum(chances[other] for other in kept)
    probabilities = apply(TopK(k=k), logits).softmax(-1)
    assert (probabilities > 0).sum(-1).tolist() == [min(k, V)] * B
    torch.testing.assert_close(probabilities, expected)


@pytest.mark.parametrize("sampler", [Temperature(value=0), Temperature(value=0.5), TopK(k=3)])
def test_samplers_leave_their_input_alone(logits: Tensor, sampler: Sampler) -> None:
    before = logits.clone()
    apply(sampler, logits)
    torch.testing.assert_close(logits, before, rtol=0, atol=0)


def test_temperature_then_top_k_draws_as_often_as_computed(logits: Tensor) -> None:
    drawn_from = apply(TopK(k=4), apply(Temperature(value=1.7), logits)).softmax(-1)
    best = logits[0].sort(descending=True).indices[:4]
    weights = (logits[0, best] / 1.7).exp()
    expected = torch.zeros(V).scatter(0, best, weights / weights.sum())
    draws = torch.multinomial(drawn_from[0], 20_000, replacement=True, generator=torch.Generator().manual_seed(2))
    shares = torch.bincount(draws, minlength=V) / 20_000
    torch.testing.assert_close(shares, expected, rtol=0, atol=0.02)  # 5 standard deviations
    assert (shares[expected == 0] == 0).all()
