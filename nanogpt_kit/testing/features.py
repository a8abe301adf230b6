"""The suite that norms and MLPs share: each position by itself."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from nanogpt_kit.core.kinds import MLP, Norm
from nanogpt_kit.testing.conformance import B, PartConformance, T, by_dtype, standard_normal
from nanogpt_kit.testing.remedy import CONVERTED, assert_same, errors_as_failures, result_of

ROUNDING = 1e-6  # relative to the largest number; eight times that of fp32


class FeatureConformance(PartConformance):
    """For norms and MLPs: modules from (B, T, C) to (B, T, C) that compute each position by itself.

    A module may return (y, extra) in training; see `api.take_extra`.
    """

    component: ClassVar[Norm | MLP]

    def inputs(self) -> tuple[Tensor, ...]:
        return (standard_normal(B, T, self.context.n_embd, seed=3).to(self.device),)

    def apply(self, module: nn.Module, *inputs: Tensor) -> Tensor:
        return result_of(self.component.kind, module(*inputs))

    @by_dtype
    def test_shape_and_dtype_are_kept(self, dtype: torch.dtype) -> None:
        (x,) = self.inputs()
        expected = self.outputs(self.build())
        with errors_as_failures(f"in {dtype} it fails: {CONVERTED}"):
            out = self.apply(self.build().to(dtype), x.to(dtype))
        remedy = "return one vector of n_embd features for each position"
        assert out.shape == x.shape, f"{tuple(x.shape)} gives {tuple(out.shape)}: {remedy}"
        assert out.dtype == dtype, f"{dtype} gives {out.dtype}: convert the result with .type_as(x)"
        claim = f"in {dtype} it is not near the result in fp32: compute sums over features in fp32"
        assert_same(out.float(), expected, claim, atol=float(0.02 * expected.abs().max()))

    def test_positions_are_independent(self) -> None:
        (x,) = self.inputs()
        module = self.build()
        before = self.apply(module, x)
        rounding = ROUNDING * before.abs().max()  # which differs where a product has other positions beside
        for position in range(T):
            changed = x.clone()
            changed[0, position] = standard_normal(self.context.n_embd, seed=4)
            change = (self.apply(module, changed) - before).abs().amax(dim=-1)  # (B, T)
            moved = (change > rounding).nonzero().tolist()
            assert moved == [[0, position]], (
                f"another vector at [row, position] [0, {position}] changes the results at {moved}: compute each "
                "position by itself, over the last dimension (dim=-1)"
            )

    def test_without_dropout_training_mode_computes_the_same(self) -> None:
        (x,) = self.inputs()
        module = self.build()
        expected = self.apply(module, x)
        claim = "with dropout = 0 training mode computes something else: use ctx.dropout, and no batch statistics"
        assert_same(self.apply(module.train(), x), expected, claim)
