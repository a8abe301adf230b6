"""The suite for attention, for all arrangements of queries and keys: what it must compute, and from what alone.

An attention that declares the function "softmax" is compared with a plain one in float64; any other one with itself,
query by query.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.kinds import Attention
from nanogpt_kit.nn.view import View
from nanogpt_kit.testing.attention_scenes import (
    HARDEST,
    SCENES,
    attention_mask,
    by_groups,
    by_scene,
    by_some_scenes,
    each_query_alone,
    plain_softmax,
)
from nanogpt_kit.testing.conformance import (
    B,
    by_dtype,
    standard_normal,
    trainable_parameters,
    value_and_gradients,
)
from nanogpt_kit.testing.extras import ExtrasConformance
from nanogpt_kit.testing.remedy import assert_same, result_of

MASKS = "take what a query attends to from view.mask(window), never from the order of keys or from is_causal"


class AttentionConformance(ExtrasConformance):
    """Subclass it with `component = MyAttention(...)`, and `window = 3` if it has a window of 3 positions.

    An attention with `computed_function = "softmax"` must compute just that. Of another one each query must get what it
    gets alone with the keys that it attends to; override `expected` to compare it with a formula instead.

    Set `differentiable = False` for a kernel without a backward pass on `device`, `inductor = False` for one that
    torch's inductor cannot compile there, `threads = False` for one that two threads must not call at once, and
    `independent_heads = False` for one whose heads use the keys of other groups.
    """

    component: ClassVar[Attention]
    window: ClassVar[int | None] = None  # that of its options: positions that a query attends to; None: all
    gradcheck_step: ClassVar[float] = 1e-3  # of finite differences; scores are fp32 whatever the input
    independent_heads: ClassVar[bool] = True  # whether no head uses the queries or keys of another

    def expected(self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
        """What the module must give, up to rounding: (B, H, T, D)."""
        if self.is_softmax:
            return plain_softmax(q, k, v, view, self.window).float()
        return each_query_alone(module, q, k, v, view, self.attends(view))

    def attends(self, view: View) -> Tensor:
        """(1 or B, 1, T, S) bool: the keys that each query attends to; override it where a window is not the answer."""
        return attention_mask(view, self.window)

    @property
    def is_softmax(self) -> bool:
        return self.component.computed_function == "softmax"

    def view(self, scene: str) -> View:
        return SCENES[scene].view(self.context.n_head, self.device)

    def inputs(self, view: View | None = None, groups: int = 2, seed: int = 3) -> tuple[Tensor, ...]:
        """q (B, H, T, D), and k and v (B, H / groups, S, D)."""
        view = view or self.view(HARDEST)
        H, D = self.context.n_head, self.context.head_dim
        T, S, G = view.query_positions.size(1), view.key_positions.size(1), H // groups
        shapes = (B, H, T, D), (B, G, S, D), (B, G, S, D)
        return tuple(standard_normal(*shape, seed=seed + index).to(self.device) for index, shape in enumerate(shapes))

    def call(self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
        """The result of a module, which may return an auxiliary loss beside it."""
        y = result_of("attention", module(q, k, v, view))
        shape, remedy = (*q.shape[:3], v.size(3)), "return one vector for each query, (B, H, T, D)"
        assert y.shape == shape, f"the result is {tuple(y.shape)}, not {shape}: {remedy}"
        return y

    def training_inputs(self) -> tuple[Tensor, ...]:
        return self.inputs(self.view("the causal square"))

    def returned(self, module: nn.Module, *inputs: Tensor) -> Any:
        return module(*inputs, self.view("the causal square"))

    def apply(self, module: nn.Module, *inputs: Tensor) -> Tensor:
        """As a model calls it: with the strides of projected heads and rotated queries, which compilers depend on."""
        q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in inputs)
        half = self.context.head_dim // 2
        q, k = (torch.cat([-x[..., half:], x[..., :half]], dim=-1) for x in (q, k))
        return self.call(module, q, k, v, self.view(HARDEST))

    def concurrent_calls(self, module: nn.Module) -> list[Callable[[], list[Tensor]]]:
        """Calls with the causal square, for which kernels have a fast path."""
        view, weights = self.view("the causal square"), trainable_parameters(module)
        batches = [self.leaves(*self.inputs(view, seed=seed)) for seed in (3, 30)]
        return [
            partial(value_and_gradients, lambda q, k, v: self.call(module, q, k, v, view), batch, weights)
            for batch in batches
        ]

    def tolerance(self, expected: Tensor, atol: float) -> float:
        """For means of values as for results of any size, which are rounded in another order."""
        return atol if self.is_softmax else 5 * atol * max(1.0, float(expected.detach().abs().amax()))

    def claim(self, scene: str) -> str:
        """What a wrong result means, and the remedy."""
        if self.is_softmax:
            remedy = "divide scores by sqrt(D) and add view.penalty() where view.slopes is set; if it is meant to"
            return (
                f"{scene}: it is not the softmax of q k^T / sqrt(D) that computed_function declares; {MASKS}; {remedy} "
                "compute something else, leave computed_function out"
            )
        what = "a query gets something else than `expected` (by default: than alone with the keys that it attends to)"
        return f"{scene}: {what}; {MASKS}, and distances from positions"

    def assert_expected(self, module: nn.Module, scene: str, groups: int = 2, seed: int = 3) -> None:
        view = self.view(scene)
        q, k, v = self.inputs(view, groups, seed)
        out, expected = self.call(module, q, k, v, view), self.expected(module, q, k, v, view)
        assert out.dtype == torch.float32, f"{scene}: fp32 inputs give {out.dtype}; return the dtype of v"
        assert_same(out, expected, self.claim(scene), self.tolerance(expected, 2e-6))

    def assert_expected_gradients(self, scene: str, groups: int = 2) -> None:
        self.skip_without_gradients()
        view, module = self.view(scene), self.build(n_kv_head=self.context.n_head // groups)
        leaves = self.leaves(*self.inputs(view, groups))
        found = value_and_gradients(lambda q, k, v: self.call(module, q, k, v, view), leaves)
        expected = value_and_gradients(lambda q, k, v: self.expected(module, q, k, v, view), leaves)
        for name, ours, theirs in zip(("the result", "q", "k", "v"), found, expected, strict=True):
            remedy = "detach nothing; if it has no backward pass on this device, set differentiable = False"
            claim = f"{scene}: the gradient of {name} is wrong: {remedy}" if name != "the result" else self.claim(scene)
            assert_same(ours, theirs, claim, self.tolerance(theirs, 1e-5))

    @by_scene
    def test_it_computes_what_is_expected(self, scene: str) -> None:
        self.assert_expected(self.build(), scene)

    @by_scene
    def test_its_gradients_are_those_of_what_is_expected(self, scene: str) -> None:
        self.assert_expected_gradients(scene)

    @by_groups
    @pytest.mark.parametrize("scene", ["the causal square", HARDEST])
    def test_queries_share_keys_and_values_in_groups(self, scene: str, groups: int) -> None:
        self.assert_expected(self.build(n_kv_head=self.context.n_head // groups), scene, groups)

    @by_groups
    def test_gradients_of_shared_keys_and_values_add_up(self, groups: int) -> None:
        self.assert_expected_gradients("queries after a cache", groups)

    @by_groups
    def test_a_head_of_keys_belongs_to_consecutive_heads_of_queries(self, groups: int) -> None:
        if not self.independent_heads:
            pytest.skip(f"{type(self).__name__}: independent_heads = False")
        view, heads = self.view("the causal square"), self.context.n_head // groups
        module, (q, k, v) = self.build(n_kv_head=heads), self.inputs(view, groups)
        before = self.call(module, q, k, v, view)
        for head in range(heads):
            keys, values = k.clone(), v.clone()
            keys[:, head], values[:, head] = keys[:, head].roll(1, -1), values[:, head] + 1
            moved = (self.call(module, q, keys, values, view) != before).any(-1).any(-1).any(0)  # (H,)
            found, expected = moved.nonzero().flatten().tolist(), list(range(head * groups, (head + 1) * groups))
            assert found == expected, (
                f"the keys and values of head {head} of {heads} change the results of query heads {found}, not of "
                f"{expected}: use k.repeat_interleave(groups, dim=1), or set independent_heads = False here"
            )

    @by_some_scenes
    def test_bfloat16_stays_near_what_is_expected(self, scene: str) -> None:
        view, module = self.view(scene), self.build()
        q, k, v = (x.bfloat16() for x in self.inputs(view))
        out, expected = self.call(module, q, k, v, view), self.expected(module, q.float(), k.float(), v.float(), view)
        remedy = "convert the result with .type_as(v)"
        assert out.dtype == torch.bfloat16, f"{scene}: bf16 inputs give {out.dtype}; {remedy}"
        claim = f"{scene}: in bf16 it is not near the result in fp32; compute scores and weights in fp32"
        assert_same(out.float(), expected, claim, self.tolerance(expected, 2e-2))

    def test_a_row_that_attends_to_nothing_is_zero_and_gives_no_gradient(self) -> None:
        view, module = self.view("rows that attend to nothing"), self.build()
        leaves = self.leaves(*self.inputs(view))
        out, *gradients = value_and_gradients(lambda q, k, v: self.call(module, q, k, v, view), leaves)
        remedy = "set the weights of such rows to zero, by a masked_fill after the normalization, and never divide by 0"
        for rows in (out[0, :, :2], out[1]):
            assert (rows == 0).all(), f"a query that attends to nothing gives {rows.abs().amax():.3g}, not 0: {remedy}"
        for name, gradient in zip("qkv", gradients, strict=False):
            assert gradient.isfinite().all(), f"the gradient of {name} is not finite with such queries: {remedy}"
            assert (gradient[1] == 0).all(), f"queries that attend to nothing give {name} a gradient: {remedy}"

    @by_some_scenes
    def test_a_later_key_never_changes_an_earlier_row(self, scene: str) -> None:
        view = self.view(scene)
        q, k, v = self.inputs(view)
        module, seen = self.build(), self.attends(view).expand(B, self.context.n_head, -1, -1)
        before = self.call(module, q, k, v, view)
        for key in range(k.size(2)):
            keys, values = k.clone(), v.clone()
            keys[:, :, key], values[:, :, key] = 70.0, -80.0
            moved = (self.call(module, q, keys, values, view) != before).any(dim=-1)  # (B, H, T)
            attending = seen[..., key]
            assert not moved[~attending].any(), f"{scene}: key {key} changes rows that must not attend to it: {MASKS}"
            used = moved[attending].all() if self.is_softmax else moved[attending].any() or not attending.any()
            assert used, (
                f"{scene}: key {key} does not change the rows that attend to it: {MASKS}; if it has a window, set "
                "`window` here; if it attends to others, override `attends`"
            )

    @by_dtype
    @pytest.mark.parametrize("scene", ["the causal square", "rows that attend to nothing"])
    def test_large_scores_stay_finite(self, scene: str, dtype: torch.dtype) -> None:
        """Of a softmax a row is a mean of values, so no result exceeds the largest value."""
        view, module = self.view(scene), self.build()
        leaves = self.leaves(*(1e4 * x.to(dtype) for x in self.inputs(view)))
        found = value_and_gradients(lambda q, k, v: self.call(module, q, k, v, view), leaves)
        for name, values in zip(("the result", *(f"the gradient of {x}" for x in "qkv")), found, strict=False):
            remedy = "subtract the largest score before you take exponentials, and compute scores in fp32"
            assert values.isfinite().all(), f"{scene}: {name} is not finite for scores of 1e8: {remedy}"
        bounded = found[0].abs().max() <= 1.01 * leaves[2].abs().max()
        assert bounded or not self.is_softmax, f"{scene}: a result exceeds the largest value: {self.claim(scene)}"

    def test_layers_may_share_a_view(self) -> None:
        module = self.build()
        view = self.view(HARDEST)
        for layer in range(3):
            q, k, v = self.inputs(view, seed=10 * layer)
            out, expected = self.call(module, q, k, v, view), self.expected(module, q, k, v, self.view(HARDEST))
            remedy = "cache only what follows from the view itself in view.cached"
            claim = f"layer {layer} gets another result with a view that earlier layers have used: {remedy}"
            assert_same(out, expected, claim if layer else self.claim(HARDEST), self.tolerance(expected, 2e-6))

    def test_dropout_is_refused_or_for_training_only(self) -> None:
        scene = "queries after a cache"
        try:
            module: Any = self.build(dropout=0.5)
        except KitError:
            return
        self.assert_expected(module, scene)
        view = self.view(scene)
        module.train()
        q, k, v = self.inputs(view)
        dropped = [self.call(module, q, k, v, view) for _ in range(2)]
        remedy = "apply nn.Dropout(ctx.dropout) to the weights, or raise a KitError in build where ctx.dropout is not 0"
        assert not torch.equal(*dropped), f"dropout = 0.5 drops nothing in training: {remedy}"
