"""The peak learning rate from the first step to the last, after an optional linear warmup."""

from __future__ import annotations

from nanogpt_kit.api import Field, Schedule


class Constant(Schedule):
    warmup_steps: int = Field(0, ge=0, description="steps of linear warmup")

    def multiplier(self, step: int, total_steps: int) -> float:
        return min(1.0, (step + 1) / (self.warmup_steps + 1))
