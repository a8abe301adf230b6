"""The peak learning rate at every step, after an optional linear warmup."""

from __future__ import annotations

from nanogpt_kit.api import WarmedUp


class Constant(WarmedUp):
    def after_warmup(self, step: int, total_steps: int) -> float:
        return 1.0
