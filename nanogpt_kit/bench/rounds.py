"""Compares training speeds: experiments are timed in alternating rounds, each in a separate worker process.

Other load on the machine then affects all of them equally.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from typing import Any

import rich

from nanogpt_kit.bench.training import TimedTrainer
from nanogpt_kit.core.errors import RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.launch.processes import end_with_parent
from nanogpt_kit.system import signals

logger = logging.getLogger(__name__)

PARTS_SECONDS = 1.0  # spent on measuring the parts of a step, about
CONFIDENCE = 0.95  # probability that an interval contains the true median
MIN_ROUNDS = 6  # fewer give no interval of that confidence

_timed: TimedTrainer | None = None  # in a worker process


@dataclass
class Timing:
    """Measurements of one experiment."""

    facts: dict[str, Any]  # see TimedTrainer
    steps: int  # per round
    rounds: list[float] = field(default_factory=list)  # tokens/s
    parts: dict[str, float] = field(default_factory=dict)  # seconds per step, by part
    memory: int | None = None  # bytes at the peak

    @property
    def tokens_per_second(self) -> float:
        return statistics.median(self.rounds)

    @property
    def mfu(self) -> float | None:
        """Relative to the peak of matrix products measured here. Formula: `nanogpt_kit.nn.flops`."""
        flops = self.facts["flops_per_token"]
        return None if flops is None else flops * self.tokens_per_second / self.facts["peak_flops"]


def time_alternating(loaders: Sequence[Callable[[], Experiment]], rounds: int, seconds: float) -> list[Timing]:
    """Times the experiments that `loaders` return, in rounds of about `seconds` each.

    Raises KitError and RunFailed as a run would.
    """
    with ExitStack() as stack:
        workers = start_workers(stack, len(loaders))
        timings: list[Timing] = []
        for worker, load in zip(workers, loaders, strict=True):
            logger.info(
                "preparing %d of %d (compiling, where it is on, takes a minute)", len(timings) + 1, len(loaders)
            )
            timings.append(worker.submit(prepare_worker, load, seconds).result())
        sizes = [timing.facts["micro_batch_size"] for timing in timings]
        if len(set(sizes)) > 1:  # also where each is "auto", since the memory of a GPU is shared
            logger.info("micro-batches of %s windows", " and ".join(map(str, sizes)))
        timers = [partial(time_round, worker, timing) for worker, timing in zip(workers, timings, strict=True)]
        for timing, rates in zip(timings, alternate(timers, rounds), strict=True):
            timing.rounds = rates
        for worker, timing in zip(workers, timings, strict=True):
            step_seconds = timing.facts["step_tokens"] / timing.tokens_per_second
            count = max(3, min(100, round(PARTS_SECONDS / step_seconds)))
            timing.parts, timing.memory = worker.submit(profile_parts, count).result()
    return timings


def start_workers(stack: ExitStack, count: int) -> list[ProcessPoolExecutor]:
    """Worker processes that last until the stack is closed; then RunFailed is raised where one was killed."""
    stack.enter_context(without_current_folder_on_path())
    processes: Any = {"mp_context": get_context("spawn"), "initializer": init_worker, "initargs": (os.getpid(),)}
    workers = [stack.enter_context(ProcessPoolExecutor(1, **processes)) for _ in range(count)]
    stack.enter_context(report_killed_worker())
    return workers


def alternate(timers: Sequence[Callable[[], float]], rounds: int) -> list[list[float]]:
    """The rates in tokens/s that each timer measures, by round; every other round calls them in reverse order."""
    rates: list[list[float]] = [[] for _ in timers]
    for index in range(rounds):
        turns = list(zip(timers, rates, strict=True))
        for timer, measured in turns if index % 2 == 0 else reversed(turns):
            measured.append(timer())
        speeds = ", ".join(f"{measured[-1]:,.0f}" for measured in rates)
        logger.info("round %d of %d: %s tokens/s", index + 1, rounds, speeds)
    return rates


@contextmanager
def without_current_folder_on_path() -> Iterator[None]:
    """While entered, new processes do not import from the current folder, where others may have put files."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        os.environ.pop("PYTHONSAFEPATH")
        if before is not None:
            os.environ["PYTHONSAFEPATH"] = before


@contextmanager
def report_killed_worker() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool:
        raise RunFailed("a process that was being timed was killed; perhaps memory ran out") from None


def init_worker(parent: int) -> None:
    """Makes a worker print nothing, leave Ctrl-C to its parent, and end with it."""
    end_with_parent(parent)
    signals.ignore_group_signals()
    rich.reconfigure(file=open(os.devnull, "w"))  # noqa: SIM115 - as long as the process


def prepare_worker(load: Callable[[], Experiment], seconds: float) -> Timing:
    global _timed
    _timed = TimedTrainer(load())
    atexit.register(_timed.close)
    step_seconds = _timed.time_round(3) / 3
    return Timing(_timed.facts, max(1, round(seconds / step_seconds)))


def time_round(worker: ProcessPoolExecutor, timing: Timing) -> float:
    """Tokens/s of one round of an experiment that a worker has prepared."""
    spent = worker.submit(time_steps, timing.steps).result()
    return timing.steps * float(timing.facts["step_tokens"]) / spent


def time_steps(count: int) -> float:
    return timed_trainer().time_round(count)


def profile_parts(count: int) -> tuple[dict[str, float], int | None]:
    """(seconds per step by part, peak memory). The last call to a worker."""
    timed = timed_trainer()
    memory, parts = timed.peak_memory(), timed.time_parts(count)
    return parts, memory


def timed_trainer() -> TimedTrainer:
    assert _timed is not None, "prepare_worker() comes first"
    return _timed


def paired_ratios(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """Ratios of tokens/s, round by round."""
    return [a / b for a, b in zip(first, second, strict=True)]


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """An interval with the true median, with a probability of at least 95%, for any distribution of MIN_ROUNDS values.

    It is bounded by two order statistics: how many of n values are below the true median is binomial (n, 1/2).
    """
    ranked, outside = sorted(values), 0
    while 2 * sum(math.comb(len(ranked), k) for k in range(outside + 1)) <= (1 - CONFIDENCE) * 2 ** len(ranked):
        outside += 1
    outside = max(1, outside)
    return ranked[outside - 1], ranked[-outside]
