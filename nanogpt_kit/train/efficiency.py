"""Model FLOPs utilisation: which share of the GPU's peak the tokens of a second amount to."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nanogpt_kit.core.kinds import Model
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.nn.flops import model_size, published_peak_flops


@dataclass(frozen=True)
class Efficiency:
    """Source and formula: `nanogpt_kit.nn.flops`."""

    flops_per_token: float | None
    peak: float | None  # FLOP/s of all devices

    @classmethod
    def of(cls, model: Model, vocab_size: int, ctx: RunContext) -> Efficiency:
        """Peaks are known of some GPUs and for short types only; elsewhere nothing is counted."""
        if ctx.device != "cuda" or ctx.precision == "fp32":
            return cls(None, None)
        peak = published_peak_flops(torch.cuda.get_device_name())
        if peak is None:
            return cls(None, None)
        size = model_size(model, vocab_size)
        return cls(size.flops_per_token if size else None, peak * ctx.world_size)

    def metrics(self, tokens_per_second: float) -> dict[str, float]:
        """{"perf/mfu": 0.4}, or nothing where it cannot be told."""
        if self.flops_per_token is None or self.peak is None:
            return {}
        return {"perf/mfu": tokens_per_second * self.flops_per_token / self.peak}
