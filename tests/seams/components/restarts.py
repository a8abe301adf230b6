"""Half a cosine from the peak to a fraction of it, and again from the peak, several times in a run.

Source: Loshchilov & Hutter 2016 (SGDR), arXiv:1608.03983, with cycles of equal length.
"""

from __future__ import annotations

import math

from nanogpt_kit.api import Field, WarmupSchedule


class Restarts(WarmupSchedule):
    cycles: int = Field(3, ge=1, description="number of times that the value falls")
    low: float = Field(0.1, ge=0, le=1, description="fraction of the peak at the end of each cycle")

    def after_warmup(self, step: int, total_steps: float) -> float:
        position = step / total_steps * self.cycles % 1  # within the cycle
        return self.low + (1 - self.low) * 0.5 * (1 + math.cos(math.pi * position))
