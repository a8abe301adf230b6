"""How fast a run trains: tokens per second, and the fraction of the GPU's peak FLOP/s that they amount to (MFU)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nanogpt_kit.core.kinds import Model
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.nn.flops import model_size, published_peak_flops
from nanogpt_kit.train.progress import Progress


@dataclass(frozen=True)
class Efficiency:
    """The constants of a run's MFU. Source and formula: `nanogpt_kit.nn.flops`."""

    flops_per_token: float | None
    peak: float | None  # FLOP/s of all devices

    @classmethod
    def of(cls, model: Model, vocab_size: int, ctx: RunContext) -> Efficiency:
        """Peaks are known for some GPUs and 16-bit types only; elsewhere the MFU is not computed."""
        if ctx.device != "cuda" or ctx.precision == "fp32":
            return cls(None, None)
        peak = published_peak_flops(torch.cuda.get_device_name())
        if peak is None:
            return cls(None, None)
        size = model_size(model, vocab_size)
        return cls(size.flops_per_token if size else None, peak * ctx.world_size)

    def metrics(self, tokens_per_second: float) -> dict[str, float]:
        """{"perf/mfu": 0.4}; empty where it is not known."""
        if self.flops_per_token is None or self.peak is None:
            return {}
        return {"perf/mfu": tokens_per_second * self.flops_per_token / self.peak}


class Throughput:
    """Tokens per second of the steps since the last logged one; evaluations and checkpoints do not count."""

    def __init__(self, efficiency: Efficiency, progress: Progress) -> None:
        self.efficiency = efficiency
        self.progress = progress
        self.tokens = 0
        self.logged_seconds = progress.seconds

    def metrics(self) -> dict[str, float]:
        """The speed since the last call, and the MFU."""
        speed = self.tokens / (self.progress.seconds - self.logged_seconds)
        self.tokens, self.logged_seconds = 0, self.progress.seconds
        return {"perf/tokens_per_second": speed, **self.efficiency.metrics(speed)}
