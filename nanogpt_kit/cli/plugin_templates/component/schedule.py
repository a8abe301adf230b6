"""Halves the learning rate at fixed intervals, after a linear warmup.

Change `after_warmup`; `step / total_steps` is the fraction of the run that is done. Source: the step decay of He et al.
2015, arXiv:1512.03385, section 4.2, with other intervals.
"""

from nanogpt_kit.api import Field, WarmupSchedule


class Halving(WarmupSchedule):
    interval_steps: int = Field(1000, ge=1, description="steps between two halvings")

    def after_warmup(self, step: int, total_steps: float) -> float:
        return float(0.5 ** ((step - self.warmup_steps) // self.interval_steps))
