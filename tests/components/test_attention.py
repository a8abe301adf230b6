"""Attention: every implementation against a softmax written as loops, wherever queries and keys stand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nanogpt_kit.api import Attention, LayerContext, View
from nanogpt_kit.components.attention.naive import Naive
from nanogpt_kit.components.attention.sdpa import SDPA

B, H, T, S, D = 2, 6, 5, 9, 4
KINDS = {"naive": Naive(), "sdpa": SDPA()}
both = pytest.mark.parametrize("name", KINDS)


def context(dropout: float = 0.0) -> LayerContext:
    sizes = {"n_embd": H * D, "n_head": H, "n_kv_head": H, "head_dim": D, "n_layer": 1, "block_size": 16}
    return LayerContext(**sizes, dropout=dropout, bias=False)


def view_of(queries: list[list[int]], keys: list[list[int]]) -> View:
    return View(torch.tensor(queries), torch.tensor(keys), causal_square=False)


VIEWS = {
    "the causal square": View.causal(torch.arange(T)[None]),
    "a square told by positions": view_of([list(range(T))], [list(range(T))]),
    "queries after a cache": view_of([[4, 5, 6, 7, 8]], [list(range(S))]),
    "one query": view_of([[8]], [list(range(S))]),
    "queries in the midst of the keys": view_of([[2, 3, 4, 5, 6]], [list(range(S))]),
    "a cache that is not full": view_of([[0, 1, 2, 3, 4]], [[0, 1, 2, 3, 4, -1, -1, -1, -1]]),
    "left padding by row": view_of([[2, 3, 4, 5, 6], [0, 1, 2, 3, 4]], [list(range(9)), [-1, -1, *range(7)]]),
    "rows that see nothing": view_of([[-2, -1, 0, 1, 2], [0, 1, 2, 3, 4]], [[-1] * 2 + list(range(7)), [-1] * 9]),
}


def by_loops(q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
    """Each query by itself, in float64."""
    out = torch.zeros(q.shape, dtype=torch.float64)
    queries, keys = view.query_positions, view.key_positions
    group = q.size(1) // k.size(1)
    for b in range(q.size(0)):
        for h in range(q.size(1)):
            for t in range(q.size(2)):
                at = int(queries[b % len(queries), t])
                seen = [s for s, key in enumerate(keys[b % len(keys)].tolist()) if 0 <= key <= at]
                scores = [float(q[b, h, t].double() @ k[b, h // group, s].double()) / math.sqrt(D) for s in seen]
                weights = [math.exp(score) for score in scores]
                for s, weight in zip(seen, weights, strict=True):
                    out[b, h, t] += weight / sum(weights) * v[b, h // group, s].double()
    return out.float()


def inputs(view: View, kv_heads: int = H) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    sizes = [(H, view.query_positions.size(1)), *[(kv_heads, view.key_positions.size(1))] * 2]
    return tuple(torch.randn(B, heads, length, D, generator=generator) for heads, length in sizes)


@both
@pytest.mark.parametrize("kv_heads", [H, 3, 2, 1])
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_attention_is_the_softmax_written_as_loops(name: str, view: View, kv_heads: int) -> None:
    q, k, v = inputs(view, kv_heads)
    out = KINDS[name].build(context())(q, k, v, view)
    torch.testing.assert_close(out, by_loops(q, k, v, view), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kv_heads", [H, 2])
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_sdpa_and_naive_have_the_same_gradients(view: View, kv_heads: int) -> None:
    gradients = []
    for kind in KINDS.values():
        leaves = [x.requires_grad_() for x in inputs(view, kv_heads)]
        out = kind.build(context())(*leaves, view)
        gradients.append(torch.autograd.grad(out.square().sum(), leaves))
    for one, other in zip(*gradients, strict=True):
        assert one.isfinite().all()
        torch.testing.assert_close(one, other, rtol=0, atol=3e-6)


@both
def test_a_row_that_sees_nothing_is_zero_and_pulls_at_nothing(name: str) -> None:
    view = VIEWS["rows that see nothing"]
    q, k, v = (x.requires_grad_() for x in inputs(view))
    out = KINDS[name].build(context())(q, k, v, view)
    assert (out[0, :, :2] == 0).all()
    assert (out[1] == 0).all()
    assert (out[0, :, 2:] != 0).all()
    out.sum().backward()
    assert (q.grad[1] == 0).all()
    assert (v.grad[1] == 0).all()
    assert all(x.grad.isfinite().all() for x in (q, k, v))


@both
def test_a_later_token_never_changes_an_earlier_row(name: str) -> None:
    view = VIEWS["the causal square"]
    q, k, v = inputs(view)
    attention = KINDS[name].build(context())
    before = attention(q, k, v, view)
    q[:, :, 3:], k[:, :, 3:], v[:, :, 3:] = 7.0, -8.0, 9.0
    after = attention(q, k, v, view)
    torch.testing.assert_close(after[:, :, :3], before[:, :, :3], rtol=0, atol=0)
    assert (after[:, :, 3:] != before[:, :, 3:]).any()


@both
def test_large_scores_stay_finite(name: str) -> None:
    view = VIEWS["the causal square"]
    q, k, v = inputs(view)
    out = KINDS[name].build(context())(1e4 * q, 1e4 * k, v, view)
    assert out.isfinite().all()


@both
def test_dropout_is_for_training_only(name: str) -> None:
    view = VIEWS["queries after a cache"]
    q, k, v = inputs(view)
    attention = KINDS[name].build(context(dropout=0.5))
    torch.manual_seed(1)
    assert not torch.allclose(attention(q, k, v, view), by_loops(q, k, v, view))
    torch.testing.assert_close(attention.eval()(q, k, v, view), by_loops(q, k, v, view), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS.values())
def test_bfloat16_stays_bfloat16(kind: Attention) -> None:
    view = VIEWS["queries after a cache"]
    q, k, v = (x.bfloat16() for x in inputs(view))
    out = kind.build(context())(q, k, v, view)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), by_loops(q, k, v, view), rtol=0, atol=2e-2)
