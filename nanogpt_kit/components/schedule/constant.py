"""The peak learning rate at every step, after an optional linear warmup."""

from __future__ import annotations

from nanogpt_kit.api import WarmupSchedule


class Constant(WarmupSchedule):
    def after_warmup(self, step: int, total_steps: float) -> float:
        return 1.0
