"""The suite for norms: each position's features by themselves, whatever their size."""

from __future__ import annotations

from typing import ClassVar

from nanogpt_kit.core.kinds import Norm
from nanogpt_kit.testing.conformance import FeatureConformance


class NormConformance(FeatureConformance):
    """Subclass it with `component = MyNorm(...)`."""

    component: ClassVar[Norm]
    gradcheck_step: ClassVar[float] = 1e-3
