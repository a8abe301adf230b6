"""The formula that the attention suite compares with is the softmax written as loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nanogpt_kit.api import LayerContext, View
from nanogpt_kit.components.attention.naive import Naive
from nanogpt_kit.components.attention.sdpa import SDPA
from nanogpt_kit.testing.attention import AttentionConformance
from nanogpt_kit.testing.attention_scenes import SCENES, plain_softmax


def by_loops(q: Tensor, k: Tensor, v: Tensor, view: View, window: int | None) -> Tensor:
    """Each query by itself, in float64."""
    out = torch.zeros(q.shape, dtype=torch.float64)
    group = q.size(1) // k.size(1)
    for b in range(q.size(0)):
        for t in range(q.size(2)):
            at, distances = told(view, b, t, window)
            for h in range(q.size(1)):
                slope = 0.0 if view.slopes is None else float(view.slopes[h])
                products = [float(q[b, h, t].double() @ k[b, h // group, s].double()) for s in at]
                scores = [
                    product / math.sqrt(q.size(3)) - slope * distance
                    for product, distance in zip(products, distances, strict=True)
                ]
                weights = [math.exp(score) for score in scores]
                for s, weight in zip(at, weights, strict=True):
                    out[b, h, t] += weight / sum(weights) * v[b, h // group, s].double()
    return out.float()


def told(view: View, b: int, t: int, window: int | None) -> tuple[list[int], list[int]]:
    """Which keys query t of row b sees, and how far back they are."""

    def row(rows: Tensor) -> list[int]:
        return rows[b % len(rows)].tolist()

    position = row(view.query_positions)[t]
    at, distances = [], []
    for s, key in enumerate(row(view.key_positions)):
        near = window is None or position - key < window
        together = view.query_segments is None or row(view.query_segments)[t] == row(view.key_segments)[s]
        if 0 <= key <= position and near and together:
            at.append(s)
            distances.append(position - key)
    return at, distances


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("scene", SCENES)
def test_the_suites_softmax_is_the_one_written_as_loops(scene: str, window: int | None) -> None:
    """The built-ins are compared with the suite's by their conformance tests."""
    suite = AttentionConformance()
    view = suite.view(scene)
    q, k, v = suite.inputs(view)
    out = plain_softmax(q, k, v, view, window).float()
    torch.testing.assert_close(out, by_loops(q, k, v, view, window), rtol=0, atol=1e-6)


@pytest.mark.parametrize("window", [None, 5, 140])
@pytest.mark.parametrize("tokens", [7, 128, 300])
def test_blocks_of_queries_have_the_values_and_gradients_of_the_whole_square(tokens: int, window: int | None) -> None:
    ctx = LayerContext(
        n_embd=48, n_head=6, n_kv_head=3, head_dim=8, n_layer=1, block_size=tokens, dropout=0.0, bias=False
    )
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, heads, tokens, 8, requires_grad=True) for heads in (6, 3, 3))
    view, weights = View.causal(torch.arange(tokens)[None]), torch.randn(2, 6, tokens, 8)
    found = []
    for attention in (SDPA(window=window, backend="math"), Naive(window=window)):
        y = attention.build(ctx)(q, k, v, view)
        found.append([y, *torch.autograd.grad(y, (q, k, v), weights)])
    torch.testing.assert_close(*found, rtol=0, atol=1e-5)
