"""Samplers: what they leave of a distribution, against transformers, torch's softmax and sums written out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from nanogpt_kit.api import Sampler
from nanogpt_kit.components.sampler.greedy import Greedy
from nanogpt_kit.components.sampler.min_p import MinP
from nanogpt_kit.components.sampler.repetition_penalty import RepetitionPenalty
from nanogpt_kit.components.sampler.temperature import Temperature
from nanogpt_kit.components.sampler.top_k import TopK
from nanogpt_kit.components.sampler.top_p import TopP
from nanogpt_kit.testing.sampler import SamplerConformance

B, V, T = 3, 11, 5
NEVER = float("-inf")
ALL = [Temperature(), TopK(k=3), TopP(p=0.6), MinP(p=0.2), RepetitionPenalty(penalty=1.7), Greedy()]


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


def test_temperature_then_top_k_draws_as_often_as_computed(logits: Tensor) -> None:
    drawn_from = apply(TopK(k=4), apply(Temperature(value=1.7), logits)).softmax(-1)
    best = logits[0].sort(descending=True).indices[:4]
    weights = (logits[0, best] / 1.7).exp()
    expected = torch.zeros(V).scatter(0, best, weights / weights.sum())
    draws = torch.multinomial(drawn_from[0], 20_000, replacement=True, generator=torch.Generator().manual_seed(2))
    shares = torch.bincount(draws, minlength=V) / 20_000
    torch.testing.assert_close(shares, expected, rtol=0, atol=0.02)  # 5 standard deviations
    assert (shares[expected == 0] == 0).all()


# --- as transformers does it ------------------------------------------------------------------------------------

CHAINS: list[list[Sampler]] = [
    *([Temperature(value=value)] for value in (0.3, 0.8, 1.0, 2.5)),
    *([TopK(k=k)] for k in (1, 7, 200, 503, 504)),
    *([TopP(p=p)] for p in (0.01, 0.3, 0.9, 0.95, 0.999, 1.0)),
    *([MinP(p=p)] for p in (0.0, 0.01, 0.3, 1.0)),
    *([RepetitionPenalty(penalty=penalty)] for penalty in (0.5, 1.0, 1.1, 3.0)),
    [Temperature(value=0.8), TopK(k=200), TopP(p=0.95)],
    [TopP(p=0.7), TopK(k=9), Temperature(value=1.6)],
    [RepetitionPenalty(penalty=1.3), Temperature(value=1.7), MinP(p=0.03), TopP(p=0.8)],
    [TopK(k=50), RepetitionPenalty(penalty=2.0), MinP(p=0.1)],
]


def oracle(sampler: Sampler) -> Any:
    from transformers.generation import logits_process as hf

    match sampler:
        case Temperature():
            return hf.TemperatureLogitsWarper(float(sampler.value))
        case TopK():
            return hf.TopKLogitsWarper(sampler.k)
        case TopP():
            return hf.TopPLogitsWarper(sampler.p)
        case MinP():
            return hf.MinPLogitsWarper(sampler.p)
        case RepetitionPenalty():
            return hf.RepetitionPenaltyLogitsProcessor(sampler.penalty)
    raise AssertionError(f"transformers has no counterpart of {sampler!r}")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_probabilities_are_those_of_transformers(chain: list[Sampler], seed: int) -> None:
    own = torch.Generator().manual_seed(seed)
    logits = (1 + seed) * torch.randn(4, 503, generator=own)
    tokens = torch.randint(503, (4, 29), generator=own)
    found, expected = logits, logits
    for sampler in chain:
        found = sampler.transform(found, tokens)
        expected = oracle(sampler)(tokens, expected)
    torch.testing.assert_close(found.softmax(-1), expected.softmax(-1), rtol=0, atol=1e-6)
    if TopP(p=1.0) not in chain:  # where transformers drops what underflows
        assert found.isneginf().equal(expected.isneginf())


# --- where it is less plain -------------------------------------------------------------------------------------


def kept(sampler: Sampler, logits: list[float]) -> list[int]:
    return apply(sampler, torch.tensor([logits] * B))[0].isfinite().nonzero().flatten().tolist()


@pytest.mark.parametrize(
    ("sampler", "tokens"),
    [
        (Greedy(), [1]),
        (Temperature(value=0), [1]),
        (TopK(k=1), [1, 2, 5, 6]),  # nobody says which of them to leave out
        (TopP(p=0.01), [1]),
        (TopP(p=0.25), [1]),
        (TopP(p=0.26), [1, 2]),
        (TopP(p=0.75), [1, 2, 5]),
        (MinP(p=1), [1, 2, 5, 6]),
    ],
    ids=str,
)
def test_of_equally_likely_tokens_the_first_are_kept_or_all(sampler: Sampler, tokens: list[int]) -> None:
    assert kept(sampler, [NEVER, 3.0, 3.0, -200.0, NEVER, 3.0, 3.0, -200.0]) == tokens


def test_top_p_of_a_flat_distribution_is_its_share_of_it() -> None:
    for n in (2, 64, 4096):
        assert kept(TopP(p=0.5), [0.0] * n) == list(range(n // 2))
    assert kept(TopP(p=1), [0.0] * 4096) == list(range(4096))


@pytest.mark.parametrize("p", [1e-300, 1e-30, 0.5, 1 - 1e-6, 1 - 1e-12])
def test_top_p_keeps_a_token_beside_which_all_others_underflow(p: float) -> None:
    assert kept(TopP(p=p), [-1e4, NEVER, 0.0, -3e38]) == [2]
    assert kept(TopP(p=p), [-3e38, NEVER, NEVER, NEVER]) == [0]


def test_top_p_1_keeps_what_underflows() -> None:
    assert kept(TopP(p=1), [-1e4, NEVER, 0.0, -3e38]) == [0, 2, 3]


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0, 3.0, 30.0])
def test_top_p_takes_no_token_too_many(p: float, scale: float) -> None:
    """Of a large vocabulary, most of which is sorted out before it is sorted."""
    logits = scale * torch.randn(2, 20_011, generator=torch.Generator().manual_seed(3))
    probabilities = logits.double().softmax(-1)
    out = TopP(p=p).transform(logits, torch.zeros(2, T, dtype=torch.int64))
    chosen = probabilities.masked_fill(out == NEVER, 0.0)
    least = probabilities.masked_fill(out == NEVER, 2.0).amin(-1)
    assert (chosen.sum(-1) > p - 1e-6).all()
    assert (chosen.sum(-1) - least < p + 1e-6).all()
    assert (probabilities.masked_fill(out != NEVER, 0.0).amax(-1) <= least).all()
    assert out[out != NEVER].equal(logits[out != NEVER])


@pytest.mark.parametrize("p", [0.991344, 0.995414, 0.998474])
def test_top_p_keeps_no_rare_token_where_the_likely_ones_fall_short_of_p_by_a_rounding(p: float) -> None:
    n = 20_011
    rare = (1 - p) / n * (1 - 1e-5)
    assert kept(TopP(p=p), [math.log(1 - (n - 1) * rare)] + [math.log(rare)] * (n - 1)) == [0]


def test_min_p_compares_with_the_likeliest() -> None:
    logits = [0.5, 0.06, 0.04, 0.4]
    assert kept(MinP(p=0.1), [math.log(chance) for chance in logits]) == [0, 1, 3]
    assert kept(MinP(p=0.9), [math.log(chance) for chance in logits]) == [0]
    assert kept(MinP(p=0), [-1e4, NEVER, 0.0, -3e38]) == [0, 2, 3]
    assert kept(MinP(p=1), [-1e4, NEVER, -3e38]) == [0]


def test_a_repeated_token_is_penalised_once_and_padding_never() -> None:
    logits = torch.tensor([[2.0, -2.0, 0.0, 4.0, NEVER, -4.0]] * 3)
    tokens = torch.tensor([[3, 1, 1, 4], [-1, -1, 5, 0], [-1, -1, -1, -1]])
    expected = [[2, -4, 0, 2, NEVER, -4], [1, -2, 0, 4, NEVER, -8], [2, -2, 0, 4, NEVER, -4]]
    assert RepetitionPenalty(penalty=2).transform(logits, tokens).tolist() == expected
    assert RepetitionPenalty(penalty=2).transform(logits, tokens[:, :0]).equal(logits)


@pytest.mark.parametrize("penalty", [1e-300, 1e-30, 1.1, 1e30, 1e300])
def test_a_penalty_beyond_float32_forbids_nothing_and_makes_no_nan(penalty: float) -> None:
    logits = torch.tensor([[3e38, -3e38, 0.0, 1e-40, NEVER]])
    out = RepetitionPenalty(penalty=penalty).transform(logits, torch.arange(5)[None])
    assert out.isfinite().tolist() == [[True, True, True, True, False]]


@pytest.mark.parametrize("value", [1e30, 1e39, 1e300])
def test_a_temperature_beyond_float32_is_uniform_over_what_is_possible(logits: Tensor, value: float) -> None:
    logits[:, 4] = NEVER
    expected = torch.full((B, V), 1 / (V - 1)).index_fill(1, torch.tensor([4]), 0.0)
    torch.testing.assert_close(apply(Temperature(value=value), logits).softmax(-1), expected)


EXTREMES = [
    *(Temperature(value=value) for value in (0, 1e-300, 1e300)),
    TopK(k=200),  # more than there are
    *(TopP(p=p) for p in (1e-300, 1)),
    *(MinP(p=p) for p in (0, 1)),
    *(RepetitionPenalty(penalty=penalty) for penalty in (1e-300, 1e300)),
]


@pytest.mark.parametrize("sampler", EXTREMES, ids=str)
def test_extreme_settings_pass_the_suite(sampler: Sampler) -> None:
    class Suite(SamplerConformance):
        component = sampler

    suite = Suite()
    for name in (name for name in dir(suite) if name.startswith("test_")):
        test: Any = getattr(suite, name)
        marks = getattr(test, "pytestmark", [])
        for value in marks[0].args[1] if marks else [None]:
            test(*([] if value is None else [value]))


def test_greedy_is_a_temperature_of_zero(logits: Tensor) -> None:
    assert apply(Greedy(), logits).equal(apply(Temperature(value=0), logits))
    assert apply(Greedy(), logits).softmax(-1).argmax(-1).equal(logits.argmax(-1))


@pytest.mark.parametrize("sampler", [*ALL, Temperature(value=0)], ids=str)
def test_samplers_never_wait_for_the_device(sampler: Sampler) -> None:
    """A meta tensor has no numbers: to ask for one is an error."""
    logits, tokens = torch.empty(B, V, device="meta"), torch.empty(B, T, dtype=torch.int64, device="meta")
    assert sampler.transform(logits, tokens).shape == (B, V)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("sampler", ALL, ids=str)
def test_samplers_give_the_same_on_a_gpu(logits: Tensor, sampler: Sampler) -> None:
    tokens = torch.arange(B * T).view(B, T) % (V + 1) - 1
    found = sampler.transform(logits.cuda(), tokens.cuda())
    torch.testing.assert_close(found.cpu(), sampler.transform(logits, tokens))
