"""Linear warmup, then linear decay to a fraction of the peak.

Source: Devlin et al. 2018, arXiv:1810.04805, appendix A.2; at least as good as a cosine: Defazio et al.
2023, arXiv:2310.07831.
"""

from __future__ import annotations

from nanogpt_kit.api import Field, WarmupSchedule


class Linear(WarmupSchedule):
    warmup_steps: int = Field(100, ge=0, description="steps of linear warmup")
    final_fraction: float = Field(0.0, ge=0, le=1, description="fraction of the peak to reach just after the last step")

    def after_warmup(self, step: int, total_steps: float) -> float:
        remaining = max(0.0, (total_steps - step) / max(1, total_steps - self.warmup_steps))  # 1 after the warmup
        return self.final_fraction + (1 - self.final_fraction) * remaining
