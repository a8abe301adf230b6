"""A progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping

import rich
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nanogpt_kit.api import Callback, Field, LiveRun, hookimpl


class Console(Callback):
    tracker = True
    every_seconds: float = Field(5.0, ge=0, description="between plain lines, where there is no terminal")

    def build(self, run: LiveRun) -> object:
        return Bar() if rich.get_console().is_terminal else Lines(self.every_seconds)


class Bar:
    @hookimpl
    def run_started(self, run: LiveRun) -> None:
        self.progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[told]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=rich.get_console(),
            refresh_per_second=4,
        )
        self.task = self.progress.add_task("train", total=run.total_steps, completed=run.first_step, told="")
        self.progress.start()

    @hookimpl
    def step_finished(self, step: int) -> None:
        self.progress.update(self.task, completed=step)

    @hookimpl
    def logged(self, metrics: Mapping[str, float]) -> None:
        self.progress.update(self.task, told=told(metrics))

    @hookimpl
    def evaluated(self, run: LiveRun, step: int, metrics: Mapping[str, float]) -> None:
        rich.print(escape(verdict(run, step, metrics)))

    @hookimpl
    def run_finished(self) -> None:
        self.progress.stop()


class Lines:
    def __init__(self, every_seconds: float) -> None:
        self.every_seconds = every_seconds
        self.last = -float("inf")

    @hookimpl
    def logged(self, run: LiveRun, step: int, metrics: Mapping[str, float]) -> None:
        now = time.monotonic()
        if now - self.last >= self.every_seconds or step == run.total_steps:
            self.last = now
            left = (run.total_steps - step) * run.experiment.train.batch_tokens / metrics["perf/tokens_per_second"]
            rich.get_console().out(f"step {step}/{run.total_steps}  {told(metrics)}  {left:.0f} s left")

    @hookimpl
    def evaluated(self, run: LiveRun, step: int, metrics: Mapping[str, float]) -> None:
        rich.get_console().out(verdict(run, step, metrics))


def told(metrics: Mapping[str, float]) -> str:
    return f"loss {metrics['train/loss']:.4f}  {metrics['perf/tokens_per_second']:,.0f} tokens/s"


def verdict(run: LiveRun, step: int, metrics: Mapping[str, float]) -> str:
    """The metrics, and beside bits per byte what compressors reach on the same text."""
    words = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    known = ", ".join(f"{name} {value:.3f}" for name, value in run.references.items())
    told = f"  ({known} bits per byte)" if known and any("bits_per_byte" in name for name in metrics) else ""
    return f"evaluated at step {step}:  {words}{told}"
