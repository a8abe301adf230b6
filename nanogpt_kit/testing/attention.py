"""The suite for attention: a plain softmax in float64, for all arrangements of queries and keys.

Source of the formula: Vaswani et al. 2017, arXiv:1706.03762; of the slopes: Press et al. 2021, arXiv:2108.12409.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.kinds import Attention
from nanogpt_kit.nn.view import View
from nanogpt_kit.testing.conformance import (
    B,
    PartConformance,
    by_dtype,
    standard_normal,
    trainable_parameters,
    value_and_gradients,
)

SQUARE, ALL, LATE = torch.arange(5)[None], torch.arange(9)[None], torch.arange(4, 9)[None]  # positions (1, T or S)
PADDED_QUERIES = torch.stack([torch.arange(2, 7), torch.arange(5)])  # (B, T)
PADDED_KEYS = torch.stack([torch.arange(9), torch.tensor([-1, -1, 0, 1, 2, 3, 4, 5, 6])])  # (B, S)
SLOPES = 0.7 ** torch.arange(64)  # by head


@dataclass(frozen=True, eq=False)
class Scene:
    """The contents of a View, before they are on a device."""

    queries: Tensor  # positions (1 or B, T)
    keys: Tensor  # (1 or B, S)
    query_segments: Tensor | None = None
    key_segments: Tensor | None = None
    slopes: bool = False
    causal_square: bool = False

    def view(self, n_head: int, device: str) -> View:
        def on_device(rows: Tensor | None) -> Tensor | None:
            return None if rows is None else rows.to(device)

        slopes = SLOPES[:n_head].to(device) if self.slopes else None
        segments = on_device(self.query_segments), on_device(self.key_segments)
        return View(self.queries.to(device), self.keys.to(device), self.causal_square, *segments, slopes)


DOCUMENTS = torch.tensor([[0, 0, 1, 1, 2], [3, 3, 3, 4, 4]])
SCENES = {
    "the causal square": Scene(SQUARE, SQUARE, causal_square=True),
    "a square by positions": Scene(SQUARE, SQUARE),
    "queries after a cache": Scene(LATE, ALL),
    "one query": Scene(LATE[:, -1:], ALL),
    "queries among the keys": Scene(PADDED_QUERIES[:1], ALL),
    "a cache that is not full": Scene(SQUARE, torch.tensor([[0, 1, 2, 3, 4, -1, -1, -1, -1]])),
    "keys in a ring by row": Scene(LATE, torch.cat([ALL.roll(4), ALL.roll(7)]), slopes=True),
    "left padding by row": Scene(PADDED_QUERIES, PADDED_KEYS),
    "rows that attend to nothing": Scene(
        PADDED_QUERIES - torch.tensor([[4], [0]]), torch.stack([PADDED_KEYS[1], -ALL[0] - 1])
    ),
    "segments": Scene(SQUARE, SQUARE, DOCUMENTS, DOCUMENTS),
    "segments after a cache": Scene(
        LATE, ALL, torch.tensor([[1, 1, 2, 2, 7]]), torch.tensor([[0, 0, 1, 1, 1, 1, 2, 2, 2]])
    ),
    "slopes over the causal square": Scene(SQUARE, SQUARE, slopes=True, causal_square=True),
    "slopes after a cache": Scene(LATE, ALL, slopes=True),
    "slopes, segments and left padding": Scene(
        PADDED_QUERIES,
        PADDED_KEYS,
        torch.tensor([[1, 1, 2, 2, 2], [5, 5, 5, 5, 6]]),
        torch.tensor([[0, 1, 1, 1, 1, 2, 2, 2, 2], [5, 5, 5, 5, 5, 5, 5, 5, 6]]),
        slopes=True,
    ),
}
HARDEST = "slopes, segments and left padding"
by_scene = pytest.mark.parametrize("scene", SCENES)
by_some_scenes = pytest.mark.parametrize("scene", ["the causal square", "queries after a cache", HARDEST])
by_groups = pytest.mark.parametrize("groups", [1, 2, 6])  # query heads that share a key and value head


def attention_mask(view: View, window: int | None) -> Tensor:
    """(1 or B, 1, T, S): which keys each query attends to, by the definition of a View."""
    query, key = view.query_positions[:, None, :, None], view.key_positions[:, None, None, :]
    seen = (key >= 0) & (key <= query)
    if window is not None:
        seen = seen & (key > query - window)
    if view.query_segments is not None and view.key_segments is not None:
        seen = seen & (view.query_segments[:, None, :, None] == view.key_segments[:, None, None, :])
    return seen


def plain_softmax(q: Tensor, k: Tensor, v: Tensor, view: View, window: int | None = None) -> Tensor:
    """Attention as in the paper, in float64: (B, H, T, D); zero for a row that attends to nothing."""
    query_heads = torch.arange(q.size(1), device=q.device) // (q.size(1) // k.size(1))  # (H,): the key head of each
    q, k, v = q.double(), k.double()[:, query_heads], v.double()[:, query_heads]
    scores = torch.einsum("bhtd,bhsd->bhts", q, k) / math.sqrt(q.size(-1))
    if view.slopes is not None:
        distance = view.query_positions[:, None, :, None] - view.key_positions[:, None, None, :]
        scores = scores - view.slopes.double()[:, None, None] * distance
    seen = attention_mask(view, window)
    scores = torch.where(seen, scores, -torch.inf)
    highest = scores.amax(dim=-1, keepdim=True).clamp(min=-1e300).detach()  # a row that attends to nothing has none
    weights = torch.exp(scores - highest)
    total = weights.sum(dim=-1, keepdim=True)
    return torch.einsum("bhts,bhsd->bhtd", weights / total.clamp(min=1e-300), v)


class AttentionConformance(PartConformance):
    """Subclass it with `component = MyAttention(...)`, and `window = 3` if it has a window of 3 positions.

    Set `differentiable = False` for a kernel without a backward pass on `device`, `inductor = False` for one that
    torch's inductor cannot compile there, `threads = False` for one that two threads must not call at once.
    """

    component: ClassVar[Attention]
    window: ClassVar[int | None] = None
    gradcheck_step: ClassVar[float] = 1e-3

    def view(self, scene: str) -> View:
        return SCENES[scene].view(self.context.n_head, self.device)

    def inputs(self, view: View | None = None, groups: int = 2, seed: int = 3) -> tuple[Tensor, ...]:
        """q (B, H, T, D), and k and v (B, H / groups, S, D)."""
        view = view or self.view(HARDEST)
        H, D = self.context.n_head, self.context.head_dim
        T, S, G = view.query_positions.size(1), view.key_positions.size(1), H // groups
        shapes = (B, H, T, D), (B, G, S, D), (B, G, S, D)
        return tuple(standard_normal(*shape, seed=seed + index).to(self.device) for index, shape in enumerate(shapes))

    def apply(self, module: nn.Module, *inputs: Tensor) -> Tensor:
        """As a model calls it: with the strides of projected heads and rotated queries, which compilers depend on."""
        q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in inputs)
        half = self.context.head_dim // 2
        q, k = (torch.cat([-x[..., half:], x[..., :half]], dim=-1) for x in (q, k))
        out: Tensor = module(q, k, v, self.view(HARDEST))
        return out

    def concurrent_calls(self, module: nn.Module) -> list[Callable[[], list[Tensor]]]:
        """Calls with the causal square, for which kernels have a fast path."""
        view, weights = self.view("the causal square"), trainable_parameters(module)
        batches = [self.leaves(*self.inputs(view, seed=seed)) for seed in (3, 30)]
        return [
            partial(value_and_gradients, lambda q, k, v: module(q, k, v, view), batch, weights) for batch in batches
        ]

    def expected(self, q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
        return plain_softmax(q, k, v, view, self.window).float()

    def assert_plain(self, module: nn.Module, view: View, groups: int = 2, seed: int = 3) -> None:
        q, k, v = self.inputs(view, groups, seed)
        out = module(q, k, v, view)
        assert out.dtype == torch.float32
        torch.testing.assert_close(out, self.expected(q, k, v, view), rtol=0, atol=2e-6)

    def assert_plain_gradients(self, view: View, groups: int = 2) -> None:
        self.skip_without_gradients()
        module, leaves = self.build(n_kv_head=self.context.n_head // groups), self.leaves(*self.inputs(view, groups))
        found = value_and_gradients(lambda q, k, v: module(q, k, v, view), leaves)
        expected = value_and_gradients(lambda q, k, v: self.expected(q, k, v, view), leaves)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)

    @by_scene
    def test_it_is_the_plain_softmax(self, scene: str) -> None:
        self.assert_plain(self.build(), self.view(scene))

    @by_scene
    def test_its_gradients_are_those_of_the_plain_softmax(self, scene: str) -> None:
        self.assert_plain_gradients(self.view(scene))

    @by_groups
    @pytest.mark.parametrize("scene", ["the causal square", HARDEST])
    def test_queries_share_keys_and_values_in_groups(self, scene: str, groups: int) -> None:
        self.assert_plain(self.build(n_kv_head=self.context.n_head // groups), self.view(scene), groups)

    @by_groups
    def test_gradients_of_shared_keys_and_values_add_up(self, groups: int) -> None:
        self.assert_plain_gradients(self.view("queries after a cache"), groups)

    @by_some_scenes
    def test_bfloat16_stays_near_the_plain_softmax(self, scene: str) -> None:
        view = self.view(scene)
        q, k, v = (x.bfloat16() for x in self.inputs(view))
        out = self.build()(q, k, v, view)
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out.float(), self.expected(q, k, v, view), rtol=0, atol=2e-2)

    def test_a_row_that_attends_to_nothing_is_zero_and_gives_no_gradient(self) -> None:
        view, module = self.view("rows that attend to nothing"), self.build()
        leaves = self.leaves(*self.inputs(view))
        out, *gradients = value_and_gradients(lambda q, k, v: module(q, k, v, view), leaves)
        assert (out[0, :, :2] == 0).all()
        assert (out[0, :, 2:] != 0).all()
        assert (out[1] == 0).all()
        for gradient in gradients:
            assert gradient.isfinite().all()
            assert (gradient[1] == 0).all()

    @by_some_scenes
    def test_a_later_key_never_changes_an_earlier_row(self, scene: str) -> None:
        view = self.view(scene)
        q, k, v = self.inputs(view)
        module, seen = self.build(), attention_mask(view, self.window).expand(B, self.context.n_head, -1, -1)
        before = module(q, k, v, view)
        for key in range(k.size(2)):
            keys, values = k.clone(), v.clone()
            keys[:, :, key], values[:, :, key] = 70.0, -80.0
            moved = (module(q, keys, values, view) != before).any(dim=-1)  # (B, H, T)
            assert not moved[~seen[..., key]].any(), (
                f"key {key} changes rows that must not attend to it: check the mask"
            )
            assert moved[seen[..., key]].all(), f"key {key} does not change all rows that attend to it"

    @by_dtype
    @pytest.mark.parametrize("scene", ["the causal square", "rows that attend to nothing"])
    def test_large_scores_stay_finite(self, scene: str, dtype: torch.dtype) -> None:
        """A row is a mean of values, so no result exceeds the largest value."""
        view, module = self.view(scene), self.build()
        leaves = self.leaves(*(1e4 * x.to(dtype) for x in self.inputs(view)))
        out, *gradients = value_and_gradients(lambda q, k, v: module(q, k, v, view), leaves)
        assert out.abs().max() <= 1.01 * leaves[2].abs().max()
        assert all(found.isfinite().all() for found in (out, *gradients))

    def test_layers_may_share_a_view(self) -> None:
        view, module = self.view(HARDEST), self.build()
        for layer in range(3):
            self.assert_plain(module, view, seed=10 * layer)

    def test_dropout_is_refused_or_for_training_only(self) -> None:
        view = self.view("queries after a cache")
        try:
            module: Any = self.build(dropout=0.5)
        except KitError:
            return
        self.assert_plain(module, view)
        module.train()
        dropped = [module(*self.inputs(view), view) for _ in range(2)]
        assert not torch.equal(*dropped), "dropout = 0.5 drops nothing in training"
