"""Linear warmup, then half a cosine down to a fraction of the peak.

Source: Loshchilov & Hutter 2016, arXiv:1608.03983. The warmup is nanoGPT's: step 0 has a learning rate above 0.
"""

from __future__ import annotations

import math

from nanogpt_kit.api import Field, WarmupSchedule


class Cosine(WarmupSchedule):
    warmup_steps: int = Field(100, ge=0, description="steps of linear warmup")
    decay_steps: int | None = Field(None, ge=1, description="step at which the decay ends; omitted: the last step")
    final_fraction: float = Field(0.1, ge=0, le=1, description="fraction of the peak from the end of the decay on")

    def after_warmup(self, step: int, total_steps: float) -> float:
        end = self.decay_steps or total_steps
        if step >= end:
            return self.final_fraction
        progress = (step - self.warmup_steps) / (end - self.warmup_steps)
        return self.final_fraction + (1 - self.final_fraction) * 0.5 * (1 + math.cos(math.pi * progress))
