"""Experiments timed by turns, each in its own process: what the machine does meanwhile strikes both alike."""

from __future__ import annotations

import logging
import math
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

import rich

from nanogpt_kit.bench.training import Subject
from nanogpt_kit.core import signals
from nanogpt_kit.core.errors import RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.launch.processes import end_with_parent

logger = logging.getLogger(__name__)

PARTS_SECONDS = 1.0  # how long the parts of a step are looked at, about
CONFIDENCE = 0.95  # of an interval that it holds the true median
ENOUGH = 6  # rounds from which on there is such an interval

_subject: Subject | None = None  # of a worker process: what it times


@dataclass
class Timing:
    """What was measured of one experiment; see `Subject` for its facts."""

    facts: dict[str, Any]
    steps: int  # of a round
    rounds: list[float] = field(default_factory=list)  # tokens/s of each
    parts: dict[str, float] = field(default_factory=dict)  # seconds of a step
    memory: int | None = None

    @property
    def tokens_per_second(self) -> float:
        return statistics.median(self.rounds)

    @property
    def mfu(self) -> float | None:
        """Against the peak of matrix products measured here. Formula: `nanogpt_kit.nn.flops`."""
        flops = self.facts["flops_per_token"]
        return None if flops is None else flops * self.tokens_per_second / self.facts["peak_flops"]


def bench(choices: Sequence[Callable[[], Experiment]], rounds: int, seconds: float) -> list[Timing]:
    """Times what each of `choices` loads, by turns, for about `seconds` a round.

    Raises KitError and RunFailed as a run would.
    """
    with ExitStack() as stack:
        stack.enter_context(importing_nothing_from_here())
        processes: Any = {"mp_context": get_context("spawn"), "initializer": begin_quietly, "initargs": (os.getpid(),)}
        workers = [stack.enter_context(ProcessPoolExecutor(1, **processes)) for _ in choices]
        stack.enter_context(told_if_killed())
        timings: list[Timing] = []
        for worker, load in zip(workers, choices, strict=True):
            logger.info("making ready %d of %d (compiling, if it does, takes a minute)", len(timings) + 1, len(choices))
            timings.append(worker.submit(ready, load, seconds).result())
        for number in range(rounds):
            turns = list(zip(workers, timings, strict=True))
            for worker, timing in turns if number % 2 == 0 else reversed(turns):
                spent = worker.submit(take_steps, timing.steps).result()
                timing.rounds.append(timing.steps * timing.facts["step_tokens"] / spent)
            speeds = ", ".join(f"{timing.rounds[-1]:,.0f}" for timing in timings)
            logger.info("round %d of %d: %s tokens/s", number + 1, rounds, speeds)
        for worker, timing in zip(workers, timings, strict=True):
            step = timing.facts["step_tokens"] / timing.tokens_per_second
            count = max(3, min(100, round(PARTS_SECONDS / step)))
            timing.parts, timing.memory = worker.submit(look_inside, count).result()
    return timings


@contextmanager
def importing_nothing_from_here() -> Iterator[None]:
    """For processes that start meanwhile: the current folder, which anybody may have filled, is not on their path."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        os.environ.pop("PYTHONSAFEPATH")
        if before is not None:
            os.environ["PYTHONSAFEPATH"] = before


@contextmanager
def told_if_killed() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool:
        raise RunFailed("a process that was timed has ended without a word; perhaps memory ran out") from None


def begin_quietly(parent: int) -> None:
    """In a worker: callbacks that print are not asked for here, and it ends with who started it."""
    end_with_parent(parent)
    signals.ignore_group_signals()
    rich.reconfigure(file=open(os.devnull, "w"))  # noqa: SIM115 - as long as the process


def ready(load: Callable[[], Experiment], seconds: float) -> Timing:
    global _subject
    _subject = Subject(load())
    step = _subject.steps(3) / 3
    return Timing(_subject.facts, max(1, round(seconds / step)))


def take_steps(count: int) -> float:
    return subject().steps(count)


def look_inside(count: int) -> tuple[dict[str, float], int | None]:
    memory, parts = subject().memory(), subject().parts(count)
    subject().close()
    return parts, memory


def subject() -> Subject:
    assert _subject is not None, "ready() comes first"
    return _subject


def paired_ratios(one: Timing, other: Timing) -> list[float]:
    """Of tokens/s, round by round."""
    return [a / b for a, b in zip(one.rounds, other.rounds, strict=True)]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Holds the true median with at least 95%, whatever the values are like; fewer than ENOUGH cannot promise as much.

    Between two of the ranked values: how many of n lie below the true median is a toss of n coins.
    """
    ranked, outside = sorted(values), 0
    while 2 * sum(math.comb(len(ranked), k) for k in range(outside + 1)) <= (1 - CONFIDENCE) * 2 ** len(ranked):
        outside += 1
    outside = max(1, outside)
    return ranked[outside - 1], ranked[-outside]
