"""What every display of a run shares: the hooks, and the numbers that it shows.

A display is a subclass for one place: `console.py` has those for a terminal and for plain lines.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from nanogpt_kit.api import LiveRun, hookimpl

ACTIVITIES = {"evaluation": "evaluating", "sampling": "generating samples"}  # by the purpose that hooks name


class ExponentialMean:
    """A mean in which each value counts less than the next; on average as old as the mean of the last `count` values.

    The decay is 1 - 2 / (count + 1). While there are few values their weights are scaled to sum to 1, so that the first
    value is its own mean.
    """

    def __init__(self, count: int) -> None:
        self.decay = 1 - 2 / (count + 1)
        self.total, self.weight = 0.0, 0.0

    def add(self, value: float) -> None:
        self.total = self.decay * self.total + (1 - self.decay) * value
        self.weight = self.decay * self.weight + (1 - self.decay)

    @property
    def value(self) -> float | None:
        return self.total / self.weight if self.weight else None


class RunDisplay(ABC):
    """Follows a run by its hooks. A subclass shows the lines, and the fields wherever it has space for them."""

    def __init__(self, run: LiveRun, smoothing: int) -> None:
        self.run = run
        self.smoothing = smoothing  # logged steps that the shown loss and speed are means of
        self.step = run.first_step
        self.logged_count = 0
        self.activity = "starting"  # what the run does between steps; empty while it trains
        self.val_loss: float | None = None  # of the newest evaluation
        self.loss = ExponentialMean(smoothing)
        self.speed = ExponentialMean(smoothing)  # tokens per second
        self.evaluation_seconds: float | None = None  # that an evaluation takes
        self.training_seconds = 0.0  # of the whole run, as max_seconds counts them
        self.is_running = True
        self.began = self.activity_began = time.monotonic()

    @abstractmethod
    def print_summary(self, summary: Mapping[str, str]) -> None:
        """Prints the summary of the run, before its first step."""

    @abstractmethod
    def print_parts(self, start: str, parts: Sequence[str]) -> None:
        """Prints a line; where it must be wrapped, between the parts."""

    @abstractmethod
    def show(self) -> None:
        """Shows the fields: the run has started, a step was logged, or an activity has begun or ended."""

    @abstractmethod
    def stop(self) -> None:
        """The run has ended: nothing follows."""

    @hookimpl
    def run_started(self, run: LiveRun) -> None:
        self.began = time.monotonic()
        if run.summary:
            self.print_summary(run.summary)
        self.show()

    @hookimpl
    def step_finished(self, step: int) -> None:
        self.step, self.activity = step, ""

    @hookimpl
    def logged(self, step: int, metrics: Mapping[str, float]) -> None:
        self.logged_count += 1
        if self.logged_count == 2:  # the first steps warm up the device, so their speed says little
            self.speed = ExponentialMean(self.smoothing)
        if metrics.get("train/counted_fraction") != 0:  # else the step has no loss
            self.loss.add(metrics["train/loss"])
        self.speed.add(metrics["perf/tokens_per_second"])
        self.training_seconds = metrics["seconds"]
        self.step, self.activity = step, ""
        self.show()

    @hookimpl
    def evaluation_started(self, purpose: str) -> None:
        self.activity, self.activity_began = ACTIVITIES[purpose], time.monotonic()
        self.show()

    @hookimpl
    def evaluation_ended(self) -> None:
        if self.activity == ACTIVITIES["evaluation"]:
            self.evaluation_seconds = time.monotonic() - self.activity_began
        self.activity = ""
        self.show()

    @hookimpl
    def evaluated(self, run: LiveRun, step: int, metrics: Mapping[str, float]) -> None:
        self.val_loss = metrics.get("val/loss")
        self.print_parts(f"evaluated at step {step}:", evaluation_parts(run, metrics))

    @hookimpl
    def run_finished(self, status: str) -> None:
        self.is_running = False
        self.stop()

    def fields(self) -> dict[str, str]:
        """What is known now, as texts by name; in the order of a line."""
        texts: dict[str, str] = {}
        if self.loss.value is not None:
            texts["loss"] = f"loss {self.loss.value:.4f}"
        if self.val_loss is not None:
            texts["val"] = f"val/loss {self.val_loss:.4f}"
        if self.speed.value is not None:
            texts["speed"] = f"{self.speed.value:,.0f} tokens/s"
        texts["elapsed"] = f"{format_seconds(time.monotonic() - self.began)} elapsed"
        left = self.seconds_left()
        if self.activity:
            texts["now"] = self.activity
        elif left is not None and self.is_running and self.step < self.run.total_steps:
            texts["now"] = f"{format_seconds(left)} left"
        return texts

    def fraction(self) -> float:
        """How much of the run is done, from 0 to 1: of its steps or of max_seconds, whichever is further."""
        max_seconds = self.run.experiment.train.max_seconds
        of_seconds = self.training_seconds / max_seconds if max_seconds else 0.0
        return min(1.0, max(self.step / max(1, self.run.total_steps), of_seconds))

    def seconds_left(self) -> float | None:
        """An estimate for the steps and evaluations that remain; None before a second speed is known."""
        if self.speed.value is None or self.logged_count < 2:
            return None
        experiment, last_step = self.run.experiment, self.run.total_steps
        every, max_seconds = experiment.evaluate.every_steps, experiment.train.max_seconds
        steps = max(1, last_step - self.step)
        tokens = experiment.tokens(self.step + steps) - experiment.tokens(self.step)
        seconds_per_step = tokens / steps / self.speed.value  # of those that remain
        if max_seconds is not None:
            seconds = max(0.0, max_seconds - self.training_seconds)
            last_step = min(last_step, self.step + math.ceil(seconds / seconds_per_step))
        evaluations = -(-last_step // every) - self.step // every  # one follows the last step in any case
        return (last_step - self.step) * seconds_per_step + evaluations * (self.evaluation_seconds or 0.0)


def evaluation_parts(run: LiveRun, metrics: Mapping[str, float]) -> list[str]:
    """The metrics; with bits per byte also what compressors need for the same text."""
    parts = [f"{name} {value:.4f}" for name, value in metrics.items()]
    if run.references and any("bits_per_byte" in name for name in metrics):
        references = ", ".join(f"{name}: {value:.3f}" for name, value in run.references.items())
        parts.append(f"({references} bits per byte)")
    return parts


def format_seconds(seconds: float) -> str:
    """Minutes and seconds, 2:05, or hours before them, 1:02:05."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
