"""The suite for norms: each position by itself, for features of any size."""

from __future__ import annotations

from typing import ClassVar

import torch

from nanogpt_kit.core.kinds import Norm
from nanogpt_kit.testing.conformance import FeatureConformance, standard_normal
from nanogpt_kit.testing.extras import ExtrasConformance


class NormConformance(FeatureConformance, ExtrasConformance):
    """Subclass it with `component = MyNorm(...)`."""

    component: ClassVar[Norm]
    gradcheck_step: ClassVar[float] = 1e-3

    def test_heads_are_normalised_like_positions(self) -> None:
        """A model may pass (B, H, T, D) to a norm built for D features."""
        heads = standard_normal(2, 3, 5, self.context.n_embd, seed=5).to(self.device)
        module = self.build()
        flat = self.apply(module, heads.flatten(0, 1))
        torch.testing.assert_close(self.apply(module, heads), flat.view_as(heads), rtol=0, atol=1e-6)
