"""Measures how fast an experiment trains on this machine, and how the time of a step divides into parts.

It times the trainer of a run, with its callbacks and its data, in a temporary folder; nothing is evaluated or saved.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.targets import BATCH_SHAPING
from nanogpt_kit.nn.flops import model_size
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.train.memory import peak_bytes
from nanogpt_kit.train.precision import DTYPES
from nanogpt_kit.train.setup import Placement, set_up
from nanogpt_kit.train.stop import StopSignals
from nanogpt_kit.train.trainer import Trainer
from nanogpt_kit.train.world import World

WARMUP_STEPS = 3  # not timed: the first steps allocate memory and choose kernels
PARTS = ("data", "forward", "backward", "optimizer", "other")
PEAK_SIZES = {"cpu": (1024, 2048), "cuda": (4096, 8192), "mps": (2048, 4096)}  # rows of the square matrices multiplied
PEAK_TRIALS = 8


class TimedTrainer:
    """The trainer of an experiment, ready to take steps; all have the batch as written, whatever schedules do to it."""

    def __init__(self, experiment: Experiment) -> None:
        kept = tuple(one for one in experiment.schedules if one.target not in BATCH_SHAPING)
        experiment = experiment.model_copy(update={"schedule": kept})
        all_threads = torch.get_num_threads()
        self.stack = ExitStack()
        placement = Placement.choose(self.stack, experiment, World())
        ctx, precision_reason = placement.ctx, placement.precision_reason
        setup, _ = set_up(self.stack, experiment, placement, with_weights=False)
        torch.set_num_threads(all_threads)  # a small step leaves some idle
        self.peak = matmul_peak(ctx.device, ctx.precision)
        torch.set_num_threads(setup.cores.threads)
        if ctx.device == "cuda":  # the memory of its matrices does not count
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        folder = RunFolder(Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="nanogpt-kit-bench-"))))
        self.trainer = Trainer(setup, folder, StopSignals())
        self.trainer.hooks.call("run_started", run=self.trainer)
        self.trainer.warm_up_compile()
        self.trainer.model.train()
        size = model_size(experiment.model, setup.data.encoder.vocab_size)
        self.flops_per_token = size.flops_per_token if size else None
        self.facts: dict[str, Any] = {
            "name": experiment.name,
            "device": torch.cuda.get_device_name() if ctx.device == "cuda" else ctx.device,
            "threads": str(setup.cores),
            "precision": ctx.precision,
            "precision_since": precision_reason,
            "compile": self.trainer.compile.mode,
            "compile_since": self.trainer.compile.why,
            "choices": setup.choices(),
            "step_tokens": experiment.train.batch_tokens,
            "micro_batch_size": self.trainer.progress.micro_batch_size,
            "peak_flops": self.peak,
            "flops_per_token": self.flops_per_token,
        }
        self.time_steps(WARMUP_STEPS)

    def time_steps(self, count: int) -> float:
        """Seconds that `count` steps take."""
        trainer = self.trainer
        began = time.perf_counter()
        for _ in range(count):
            if trainer.step == trainer.total_steps:
                trainer.progress.step = 0  # batches and learning rates are functions of the step alone
            trainer.take_step()
        synchronize(trainer.precision.device)
        return time.perf_counter() - began

    def time_round(self, count: int) -> float:
        """As `time_steps`; on a GPU it then frees what is not in use, for the process that is timed next."""
        is_gpu = self.trainer.precision.device == "cuda"
        if is_gpu:
            self.time_steps(1)  # allocates again what the round before has freed
        seconds = self.time_steps(count)
        if is_gpu:
            torch.cuda.empty_cache()
        return seconds

    def time_parts(self, count: int) -> dict[str, float]:
        """Seconds per step, by part. It waits for the device at each boundary, so the sum may exceed the step time.

        Afterwards the trainer cannot be timed again.
        """
        trainer, device = self.trainer, self.trainer.precision.device
        spent: dict[str, float] = defaultdict(float)
        current, since = "other", time.perf_counter()

        def begin(part: str) -> None:
            nonlocal current, since
            synchronize(device)
            now = time.perf_counter()
            spent[current] += now - since
            current, since = part, now

        def timed(call: Callable[..., Any], during: str, after: str) -> Callable[..., Any]:
            def timed_call(*args: Any, **kwargs: Any) -> Any:
                begin(during)
                result = call(*args, **kwargs)
                begin(after)
                return result

            return timed_call

        parallel: Any = timed(trainer.parallel, "forward", "backward")
        parallel.sync, parallel.clip = trainer.parallel.sync, trainer.parallel.clip
        trainer.parallel = parallel
        boundaries: list[tuple[Any, str, str, str]] = [
            (trainer.batches, "at", "data", "other"),
            (trainer.scaler, "unscale_", "optimizer", "optimizer"),
            (trainer.optimizer, "zero_grad", "optimizer", "other"),
        ]
        for owner, name, during, after in boundaries:
            setattr(owner, name, timed(getattr(owner, name), during, after))
        begin("other")
        spent.clear()
        self.time_steps(count)
        begin("other")
        return {part: spent[part] / count for part in PARTS}

    def peak_memory(self) -> int | None:
        """The largest memory use so far in bytes: of the accelerator, or of the whole process."""
        return peak_bytes(self.trainer.precision.device)

    def close(self) -> None:
        self.trainer.hooks.call("run_finished", run=self.trainer, status="interrupted")
        self.stack.close()


def matmul_peak(device: str, precision: str) -> float:
    """FLOP/s of the fastest product of two square matrices, in the type that the run multiplies in."""
    dtype, best = DTYPES.get(precision, torch.float32), 0.0
    for rows in PEAK_SIZES[device]:
        a, b = (torch.randn(rows, rows, device=device).to(dtype) for _ in range(2))
        for _ in range(PEAK_TRIALS):
            synchronize(device)
            began = time.perf_counter()
            a @ b
            synchronize(device)
            best = max(best, 2.0 * rows**3 / (time.perf_counter() - began))
    return best


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()
