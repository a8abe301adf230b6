"""A view: who sees whom, told by loops over positions; and each lowering of it is made once for all layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt_kit.api import Attention, KVCache, LayerContext, ModelContext, View
from nanogpt_kit.components.attention import flex as flex_module
from nanogpt_kit.components.attention.flex import Flex
from nanogpt_kit.components.attention.naive import Naive
from nanogpt_kit.components.attention.sdpa import SDPA
from nanogpt_kit.components.model.gpt import GPT

T, S, H = 3, 5, 4
VIEWS = {  # positions of queries and keys, then segments of both
    "a square": ([[0, 1, 2]], [[0, 1, 2]], None, None),
    "after a cache": ([[2, 3, 4]], [[0, 1, 2, 3, 4]], None, None),
    "out of order": ([[4, 0, 2]], [[3, 1, 4, 0, 2]], None, None),
    "no keys among the keys": ([[0, 1, 2]], [[0, 1, 2, -1, -7]], None, None),
    "queries before all keys": ([[-2, -1, 0]], [[-1, -1, 0, 1, 2]], None, None),
    "positions by row": ([[1, 2, 3], [4, 5, 6]], [[-1, 0, 1, 2, 3], [2, 3, 4, 5, 6]], None, None),
    "one row of queries, two of keys": ([[2, 3, 4]], [[0, 1, 2, 3, 4], [-1, -1, 0, 1, 2]], None, None),
    "segments": ([[2, 3, 4]], [[0, 1, 2, 3, 4]], [[5, 7, 7]], [[5, 5, 5, 7, 7]]),
    "segments by row": ([[2, 3, 4]], [[0, 1, 2, 3, 4]], [[5, 5, 5], [6, 0, 0]], [[5, 5, 5, 5, 5], [0, 6, 6, 0, 0]]),
}
everywhere = pytest.mark.parametrize("rows", VIEWS.values(), ids=VIEWS)
Rows = tuple[list[list[int]], list[list[int]], list[list[int]] | None, list[list[int]] | None]


def view_of(rows: Rows, slopes: Tensor | None = None) -> View:
    queries, keys, *segments = (None if row is None else torch.tensor(row) for row in rows)
    return View(queries, keys, False, *segments, slopes=slopes)


def batch(*tables: list[list[int]] | None) -> int:
    return max(len(table) for table in tables if table)


@everywhere
@pytest.mark.parametrize("window", [None, 1, 2, 4, 100])
def test_a_mask_is_what_loops_over_positions_say(rows: Rows, window: int | None) -> None:
    queries, keys, query_segments, key_segments = rows
    mask = view_of(rows).mask(window)
    assert mask.dtype == torch.bool
    assert mask.shape == (batch(*rows), 1, len(queries[0]), len(keys[0]))
    for b in range(len(mask)):
        for t, query in enumerate(queries[b % len(queries)]):
            for s, key in enumerate(keys[b % len(keys)]):
                seen = key in range(query + 1)
                if window is not None:
                    seen = seen and key in range(query - window + 1, query + 1)
                if query_segments is not None and key_segments is not None:
                    own, other = query_segments[b % len(query_segments)][t], key_segments[b % len(key_segments)][s]
                    seen = seen and own == other
                assert mask[b, 0, t, s] == seen, (b, query, key)


@everywhere
def test_a_penalty_is_slope_times_distance_and_zero_at_home(rows: Rows) -> None:
    queries, keys, *_ = rows
    slopes = torch.tensor([0.5, 0.25, 3.0, 0.0])
    penalty = view_of(rows, slopes).penalty()
    assert penalty.dtype == torch.float32
    assert penalty.shape == (batch(queries, keys), H, len(queries[0]), len(keys[0]))
    for b in range(len(penalty)):
        for h, slope in enumerate(slopes.tolist()):
            for t, query in enumerate(queries[b % len(queries)]):
                for s, key in enumerate(keys[b % len(keys)]):
                    assert penalty[b, h, t, s] == -slope * (query - key)


def test_only_a_view_with_slopes_has_a_penalty() -> None:
    with pytest.raises(AssertionError, match="only a view with slopes"):
        view_of(VIEWS["a square"]).penalty()


def test_a_causal_view_is_a_plain_square_unless_it_has_segments() -> None:
    positions = torch.arange(T)[None]
    view = View.causal(positions)
    assert view.causal_square
    assert torch.equal(view.mask(), torch.ones(T, T, dtype=torch.bool).tril()[None, None])
    segments = torch.tensor([[0, 1, 1]])
    parted = View.causal(positions, segments)
    assert not parted.causal_square
    assert parted.mask()[0, 0].tolist() == [[True, False, False], [False, True, False], [False, True, True]]


def test_each_result_is_made_once_for_a_view() -> None:
    view, other = view_of(VIEWS["a square"]), view_of(VIEWS["a square"])
    made: list[str] = []

    def lower(what: str) -> Callable[[], str]:
        return lambda: made.append(what) or what

    assert [view.cached(1, lower("a")), view.cached(2, lower("b")), view.cached(1, lower("c"))] == ["a", "b", "a"]
    assert other.cached(1, lower("d")) == "d"
    assert made == ["a", "b", "d"]
    view.cached(3, lambda: made.append("nothing"))
    view.cached(3, lambda: made.append("nothing"))
    assert made == ["a", "b", "d", "nothing"]


@pytest.fixture
def lowered(monkeypatch: pytest.MonkeyPatch) -> Counter[Hashable]:
    """How often each thing was lowered, of whichever view."""
    counts: Counter[Hashable] = Counter()
    once = View.cached

    def counted(self: View, key: Hashable, lower: Callable[[], Any]) -> Any:
        def count() -> Any:
            counts[key] += 1
            return lower()

        return once(self, key, count)

    monkeypatch.setattr(View, "cached", counted)
    return counts


ATTENTIONS = [Naive(), Naive(window=2), SDPA(window=2), Flex(window=2), pytest.param(Flex(), marks=pytest.mark.slow)]


def model_of(attention: Attention, position: str = "learned") -> nn.Module:
    torch.manual_seed(0)
    parts = GPT(n_layer=3, n_head=H, n_embd=16, block_size=7, attention=attention, position=position)
    return parts.build(ModelContext(vocab_size=11)).eval()


@torch.no_grad()
@pytest.mark.parametrize("position", ["learned", "alibi"])
@pytest.mark.parametrize("attention", ATTENTIONS, ids=repr)
def test_a_forward_pass_lowers_its_view_once_for_all_layers(
    attention: Attention, position: str, lowered: Counter[Hashable]
) -> None:
    model = model_of(attention, position)
    model(torch.zeros(2, 5, dtype=torch.long))
    assert ("mask", attention.window) in lowered
    assert ("penalty" in lowered) == (position == "alibi")
    assert set(lowered.values()) == {1}
    before = set(lowered)
    cache = KVCache(7)
    for _ in range(2):
        model(torch.zeros(2, 3, dtype=torch.long), cache=cache)
    assert set(lowered) == before
    assert set(lowered.values()) == {3}, "and once again for each new pass"


@torch.no_grad()
@pytest.mark.parametrize("position", ["learned", "alibi"])
def test_the_fused_kernel_of_every_layer_gets_the_same_mask(position: str, monkeypatch: pytest.MonkeyPatch) -> None:
    masks: list[Tensor] = []
    kernel = F.scaled_dot_product_attention

    def watched(*args: Tensor, attn_mask: Tensor, **options: Any) -> Tensor:
        masks.append(attn_mask)
        return kernel(*args, attn_mask=attn_mask, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    model_of(SDPA(window=2), position)(torch.zeros(2, 5, dtype=torch.long))
    assert len(masks) == 3
    assert all(mask is masks[0] for mask in masks)


@pytest.mark.parametrize("position", ["learned", "alibi"])
def test_blocks_of_a_mask_are_found_once_for_all_layers(position: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Any, ...]] = []
    create = flex_module.create_block_mask
    monkeypatch.setattr(flex_module, "create_block_mask", lambda *args, **kw: made.append(args) or create(*args, **kw))
    # Without gradients it would use the fused kernels; on a CPU it has no backward pass
    model_of(Flex(window=2), position).requires_grad_(False)(torch.zeros(2, 5, dtype=torch.long))
    assert len(made) == 1


@torch.no_grad()
def test_layers_of_different_windows_have_a_mask_each(lowered: Counter[Hashable]) -> None:
    model = model_of(Naive(window=2))
    ctx = LayerContext(n_embd=16, n_head=H, n_kv_head=H, head_dim=4, n_layer=3, block_size=7, dropout=0.0, bias=True)
    model.h[1].attn.attention = Naive(window=3).build(ctx)
    model(torch.zeros(2, 5, dtype=torch.long))
    assert lowered == {("mask", 2): 1, ("mask", 3): 1}


@torch.no_grad()
def test_the_plain_square_needs_no_mask_in_a_fused_kernel(lowered: Counter[Hashable]) -> None:
    model_of(SDPA())(torch.zeros(2, 5, dtype=torch.long))
    assert not lowered


def test_segments_are_of_queries_and_keys_or_of_neither() -> None:
    positions = torch.arange(3)[None]
    with pytest.raises(AssertionError, match="for queries and keys, or for neither"):
        View(positions, positions, causal_square=False, query_segments=positions)
