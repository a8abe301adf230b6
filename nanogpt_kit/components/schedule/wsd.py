"""Warmup, stable, decay: the peak for most of the run, then decay to a fraction of it in the last part.

Source: Hu et al. 2024 (MiniCPM), arXiv:2404.06395; the shape "sqrt", one minus the root of the progress, is that of
Hägele et al. 2024, arXiv:2405.18392.
"""

from __future__ import annotations

import math
from typing import Literal

from nanogpt_kit.api import Field, WarmupSchedule


class WSD(WarmupSchedule):
    warmup_steps: int = Field(100, ge=0, description="steps of linear warmup")
    decay_fraction: float = Field(0.2, ge=0, le=1, description="fraction of the run's steps that decay")
    shape: Literal["linear", "sqrt"] = Field("linear", description="shape of the decay")
    final_fraction: float = Field(0.0, ge=0, le=1, description="fraction of the peak to reach just after the last step")

    def after_warmup(self, step: int, total_steps: float) -> float:
        decay_steps = self.decay_fraction * total_steps
        progress = (step - (total_steps - decay_steps)) / decay_steps if decay_steps else 0.0
        progress = min(1.0, max(0.0, progress))
        remaining = 1 - (math.sqrt(progress) if self.shape == "sqrt" else progress)
        return self.final_fraction + (1 - self.final_fraction) * remaining
