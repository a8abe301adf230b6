"""How fast a run trains: tokens per second, and the fraction of the GPU's peak FLOP/s that they amount to (MFU)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch

from nanogpt_kit.core.kinds import Model
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.data.batches import Batch
from nanogpt_kit.nn.flops import flops_per_token, published_peak_flops
from nanogpt_kit.nn.uninitialized import build_on_meta
from nanogpt_kit.train.progress import Progress


@dataclass(frozen=True)
class Efficiency:
    """The constants of a run's MFU. Source and formula: `nanogpt_kit.nn.flops`."""

    flops: Mapping[int, float]  # of training on a token, by the length of its window; empty where they are not known
    peak: float = math.nan  # FLOP/s of all devices

    @classmethod
    def of(cls, model: Model, vocab_size: int, ctx: RunContext, lengths: Collection[int]) -> Efficiency:
        """Peaks are known for some GPUs, in 16-bit types and tf32; elsewhere the MFU is not computed."""
        if ctx.device != "cuda" or ctx.precision == "fp32":
            return cls({})
        peak = published_peak_flops(torch.cuda.get_device_name(), ctx.precision)
        module = build_on_meta(model, vocab_size) if peak else None
        if peak is None or module is None:
            return cls({})
        counted = {length: flops_per_token(module, length) for length in lengths}
        flops = {length: count for length, count in counted.items() if count is not None}
        return cls(flops if len(flops) == len(counted) else {}, peak * ctx.world_size)

    def metrics(self, tokens_per_second: Mapping[int, float]) -> dict[str, float]:
        """{"perf/mfu": 0.4} for the speed by the length of windows; empty where it is not known."""
        if not self.flops:
            return {}
        achieved = sum(speed * self.flops[length] for length, speed in tokens_per_second.items())
        return {"perf/mfu": achieved / self.peak}


class Throughput:
    """Tokens per second of the steps since the last logged one; evaluations and checkpoints do not count.

    They are the tokens of the windows, whether they count in the loss or not; `tokens_of_steps` gives those of the
    first steps.
    """

    def __init__(self, efficiency: Efficiency, progress: Progress, tokens_of_steps: Callable[[int], int]) -> None:
        self.efficiency = efficiency
        self.progress = progress
        self.tokens_of_steps = tokens_of_steps
        self.tokens: Counter[int] = Counter()  # by the length of windows
        self.counted_fraction = 1.0  # of the tokens of the newest step
        self.logged_seconds = progress.seconds

    def add(self, batch: Batch) -> None:
        """The newest step was on this batch."""
        before, tokens = map(self.tokens_of_steps, (self.progress.step - 1, self.progress.step))
        self.tokens[batch.ids.shape[1]] += tokens - before
        self.counted_fraction = batch.all_tokens / (tokens - before)

    def metrics(self) -> dict[str, float]:
        """The speed since the last call, and the MFU; where not all tokens of the newest step count, how many do."""
        seconds = self.progress.seconds - self.logged_seconds
        speeds = {length: tokens / seconds for length, tokens in self.tokens.items()}
        self.tokens.clear()
        self.logged_seconds = self.progress.seconds
        counted = {} if self.counted_fraction == 1 else {"train/counted_fraction": self.counted_fraction}
        return {**counted, "perf/tokens_per_second": sum(speeds.values()), **self.efficiency.metrics(speeds)}
