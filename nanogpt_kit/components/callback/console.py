"""A progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping

import rich
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nanogpt_kit.api import Callback, Field, LiveRun, hookimpl


class Console(Callback):
    is_tracker = True
    every_seconds: float = Field(
        5.0, ge=0, description="least time between plain lines in seconds, where there is no terminal"
    )

    def build(self, run: LiveRun) -> object:
        return ProgressBar() if rich.get_console().is_terminal else PlainLines(self.every_seconds)


class ProgressBar:
    @hookimpl
    def run_started(self, run: LiveRun) -> None:
        self.progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[metrics]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=rich.get_console(),
            refresh_per_second=4,
        )
        self.task = self.progress.add_task("train", total=run.total_steps, completed=run.first_step, metrics="")
        self.progress.start()

    @hookimpl
    def step_finished(self, step: int) -> None:
        self.progress.update(self.task, completed=step)

    @hookimpl
    def logged(self, metrics: Mapping[str, float]) -> None:
        self.progress.update(self.task, metrics=format_metrics(metrics))

    @hookimpl
    def evaluated(self, run: LiveRun, step: int, metrics: Mapping[str, float]) -> None:
        rich.print(escape(format_evaluation(run, step, metrics)))

    @hookimpl
    def run_finished(self) -> None:
        self.progress.stop()


class PlainLines:
    def __init__(self, every_seconds: float) -> None:
        self.every_seconds = every_seconds
        self.last = -float("inf")

    @hookimpl
    def logged(self, run: LiveRun, step: int, metrics: Mapping[str, float]) -> None:
        now = time.monotonic()
        if now - self.last >= self.every_seconds or step == run.total_steps:
            self.last = now
            left = (run.total_steps - step) * run.experiment.train.batch_tokens / metrics["perf/tokens_per_second"]
            rich.get_console().out(f"step {step}/{run.total_steps}  {format_metrics(metrics)}  {left:.0f} s left")

    @hookimpl
    def evaluated(self, run: LiveRun, step: int, metrics: Mapping[str, float]) -> None:
        rich.get_console().out(format_evaluation(run, step, metrics))


def format_metrics(metrics: Mapping[str, float]) -> str:
    return f"loss {metrics['train/loss']:.4f}  {metrics['perf/tokens_per_second']:,.0f} tokens/s"


def format_evaluation(run: LiveRun, step: int, metrics: Mapping[str, float]) -> str:
    """The metrics; with bits per byte also what compressors reach on the same text."""
    values = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    references = ", ".join(f"{name} {value:.3f}" for name, value in run.references.items())
    beside = (
        f"  ({references} bits per byte)" if references and any("bits_per_byte" in name for name in metrics) else ""
    )
    return f"evaluated at step {step}:  {values}{beside}"
