"""How fast a run trains: tokens per second, and the fraction of the GPU's peak FLOP/s that they amount to (MFU)."""

from __future__ import annotations

from collections.abc import Callable
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
    """Tokens per second of the steps since the last logged one; evaluations and checkpoints do not count.

    They are the tokens of the windows, whether they count in the loss or not; `tokens_of_steps` gives those of the
    first steps.
    """

    def __init__(self, efficiency: Efficiency, progress: Progress, tokens_of_steps: Callable[[int], int]) -> None:
        self.efficiency = efficiency
        self.progress = progress
        self.tokens_of_steps = tokens_of_steps
        self.counted_tokens = 0  # of the newest step: those that count
        self.logged_tokens, self.logged_seconds = tokens_of_steps(progress.step), progress.seconds

    def metrics(self) -> dict[str, float]:
        """The speed since the last call, and the MFU; where not all tokens of the newest step count, how many do."""
        tokens, before = map(self.tokens_of_steps, (self.progress.step, self.progress.step - 1))
        speed = (tokens - self.logged_tokens) / (self.progress.seconds - self.logged_seconds)
        self.logged_tokens, self.logged_seconds = tokens, self.progress.seconds
        fraction = self.counted_tokens / (tokens - before)
        counted = {} if fraction == 1 else {"train/counted_fraction": fraction}
        return {**counted, "perf/tokens_per_second": speed, **self.efficiency.metrics(speed)}
