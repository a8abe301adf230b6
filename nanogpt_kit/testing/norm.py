"""The suite for norms: each position by itself, for features of any size."""

from __future__ import annotations

from typing import ClassVar

from nanogpt_kit.core.kinds import Norm
from nanogpt_kit.testing.conformance import standard_normal
from nanogpt_kit.testing.extras import ExtrasConformance
from nanogpt_kit.testing.features import FeatureConformance
from nanogpt_kit.testing.remedy import assert_same, errors_as_failures


class NormConformance(FeatureConformance, ExtrasConformance):
    """Subclass it with `component = MyNorm(...)`."""

    component: ClassVar[Norm]
    gradcheck_step: ClassVar[float] = 1e-3  # of finite differences; norms compute in fp32 whatever their input

    def test_heads_are_normalised_like_positions(self) -> None:
        """A model may pass (B, H, T, D) to a norm built for D features."""
        heads = standard_normal(2, 3, 5, self.context.n_embd, seed=5).to(self.device)
        module = self.build()
        expected = self.apply(module, heads.flatten(0, 1)).view_as(heads)
        claim = "heads (B, H, T, D) get another result than as (B H, T, D): normalize over the last dimension (dim=-1)"
        with errors_as_failures(claim):
            found = self.apply(module, heads)
        assert_same(found, expected, claim, atol=1e-6)
