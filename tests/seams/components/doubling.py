"""The value doubles again and again until the end of a run, and stays for equal parts of it in between.

Source: Smith et al. 2018, "Don't Decay the Learning Rate, Increase the Batch Size", arXiv:1711.00489.
"""

from __future__ import annotations

from nanogpt_kit.api import Field, Schedule


class Doubling(Schedule):
    doublings: int = Field(3, ge=1, le=30, description="number of times that the value doubles")

    def multiplier(self, step: int, total_steps: float) -> float:
        stage = min(self.doublings, int(step / total_steps * (self.doublings + 1)))
        return 2.0 ** (stage - self.doublings)  # the option's value is that of the last stage
