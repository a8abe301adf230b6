"""Linear warmup, then decay with the inverse root of the step. Independent of the length, so a run may be extended.

Source: Vaswani et al. 2017, arXiv:1706.03762, section 5.3.
"""

from __future__ import annotations

import math

from nanogpt_kit.api import Field, WarmupSchedule


class InverseSqrt(WarmupSchedule):
    warmup_steps: int = Field(100, ge=0, description="steps of linear warmup")

    def after_warmup(self, step: int, total_steps: float) -> float:
        return math.sqrt((self.warmup_steps + 1) / (step + 1))
