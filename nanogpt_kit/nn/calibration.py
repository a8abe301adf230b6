"""Measures which candidates of a task are fastest on this machine, and notices when other load made that unsound."""

from __future__ import annotations

import gc
import logging
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from nanogpt_kit.core.machine_choices import Task

logger = logging.getLogger(__name__)

MIN_SAMPLE = 0.0005  # seconds that a sample takes; shorter calls are repeated, as the clock and a wake-up take some us
MIN_ROUNDS, MAX_ROUNDS = 5, 25  # each candidate once in a round, in turn
HOPELESS = 3.0  # times the time of the fastest single call: measured no further
TOO_SLOW = 0.5  # seconds of a call, which should take ms
CLEARLY_FASTER = 0.95  # of the time of the rule's candidate; less is a tie, which goes to the rule
# Beyond these the machine was doing something else meanwhile. Two idle cores of an AMD EPYC (Zen 4): 0.01 to 0.07 and
# 0.03 to 0.19 for products of a small network in two threads.
MAX_WAITING = 0.15  # time for which threads of this process were ready but had no core, by the time that was measured
WAKING = 1e-4  # seconds that a thread may wait each time that it is woken: 8 to 33 us on average if idle (Zen 4)
MAX_SPREAD = 0.3  # median distance from the median, by the median
MIN_ELAPSED = 0.04  # seconds, before which a single pause of some ms would decide


class Disturbed(Exception):
    """Other load on the machine makes the times meaningless."""


def measure(tasks: Sequence[Task], budget_seconds: float) -> dict[str, dict[str, float]] | None:
    """Seconds of a call by task and candidate, the rule's candidate first; None where other load disturbed it.

    Tasks for which the budget leaves no time are left out, as are candidates that fail here.
    """
    began = time.perf_counter()
    found: dict[str, dict[str, float]] = {}
    collects = gc.isenabled()
    gc.disable()
    try:
        for index, task in enumerate(tasks):
            left = budget_seconds - (time.perf_counter() - began)
            figures = time_candidates(task, left / (len(tasks) - index))
            if figures:
                found[task.name] = figures
    except Disturbed as reason:
        logger.debug("the calibration was discarded: %s", reason)
        return None
    finally:
        if collects:
            gc.enable()
    return found


def fastest(figures: Mapping[str, float]) -> str:
    """The candidate to use. The first, which is the rule's, is used unless another is clearly faster."""
    rule = next(iter(figures))
    best = min(figures, key=figures.__getitem__)
    return best if figures[best] < CLEARLY_FASTER * figures[rule] else rule


def time_candidates(task: Task, seconds: float) -> dict[str, float]:
    """The median seconds of a call of each candidate; empty where there was no time for enough rounds."""
    deadline = time.perf_counter() + seconds
    waiting = CoreWaiting()
    calls, found = {}, {}
    for name, make in task.candidates.items():
        if time.perf_counter() > deadline:
            return {}
        try:
            calls[name] = call = make()
            times = first_calls(call, deadline)
        except Exception as error:  # of torch: not on this machine; or of a component, which computes by its rule then
            logger.debug("%s: %s fails here: %r", task.name, name, error)
            calls.pop(name, None)
            continue
        if len(times) == 1:  # a call that has begun cannot be ended
            waiting.check()
            if times[0] > TOO_SLOW:
                logger.warning("%s: one call of %s takes %.1f s, too long to measure it", task.name, name, times[0])
            if name == task.rule or times[0] <= TOO_SLOW:
                return {}
        found[name] = min(times[1:] or times)
    if task.rule not in found:  # the others have nothing to be compared with
        return {}
    for name in [name for name, one in found.items() if one > HOPELESS * min(found.values())]:
        del calls[name]
    waiting.check()
    if len(calls) == 1:  # decided
        return found
    before_call = task.before_call or (lambda: None)
    repeats = {name: max(1, math.ceil(MIN_SAMPLE / max(found[name], 1e-9))) for name in calls}
    if task.before_call:
        repeats = dict.fromkeys(calls, 1)
    of_round = len(calls) * sample(before_call, 1) + sum(repeats[name] * found[name] for name in calls)
    rounds = min(MAX_ROUNDS, int((deadline - time.perf_counter()) / of_round))
    if rounds < MIN_ROUNDS:
        return {}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    waiting = CoreWaiting()
    for index in range(rounds):
        names = list(calls) if index % 2 or task.before_call else list(reversed(calls))
        for name in names:
            before_call()
            samples[name].append(sample(calls[name], repeats[name]))
        waiting.check()
        if index + 1 >= MIN_ROUNDS and time.perf_counter() > deadline:  # the first calls were faster
            break
    for name, times in samples.items():
        check_spread(f"{task.name}: {name}", times)
        found[name] = statistics.median(times)
    return found


def first_calls(call: Callable[[], object], deadline: float) -> list[float]:
    """Seconds of a call, which also allocates memory and loads code, and of two more where there is time and it is not
    TOO_SLOW."""
    times = [sample(call, 1)]
    while len(times) < 3 and times[0] <= TOO_SLOW and time.perf_counter() + times[-1] < deadline:
        times.append(sample(call, 1))
    return times


def sample(call: Callable[[], object], repeats: int) -> float:
    """Seconds of one call, as the mean of several in a row."""
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - began) / repeats


def check_spread(name: str, times: Sequence[float]) -> None:
    """Raises Disturbed where the times of a candidate differ too much from round to round."""
    middle = statistics.median(times)
    spread = statistics.median(abs(one - middle) for one in times) / middle
    if spread > MAX_SPREAD:
        raise Disturbed(f"{name} took {min(times):.2e} to {max(times):.2e} s")


class CoreWaiting:
    """The time for which threads of this process were ready to run, but other processes had the cores.

    Linux counts it for each thread. Elsewhere it is unknown, and only the spread of the times shows the load.
    """

    def __init__(self) -> None:
        self.began, self.before = time.perf_counter(), waited_seconds()

    def check(self) -> None:
        """Raises Disturbed where they waited for too much of the time so far."""
        waited = waited_seconds() - self.before
        elapsed = time.perf_counter() - self.began
        if waited > MAX_WAITING * max(elapsed, MIN_ELAPSED):
            raise Disturbed(f"threads waited {waited:.3f} of {elapsed:.3f} s for a core")


def waited_seconds() -> float:
    """Seconds for which the living threads of this process waited for a core, without the time to wake them; 0 where
    the system does not say."""
    total = 0.0
    try:
        for thread in os.listdir("/proc/self/task"):
            try:
                with open(f"/proc/self/task/{thread}/schedstat", "rb") as file:
                    _, waited, turns = map(int, file.read().split())  # nanoseconds of running and waiting
                    total += waited / 1e9 - WAKING * turns
            except FileNotFoundError:  # it has ended meanwhile
                continue
    except (OSError, ValueError):
        return 0.0
    return total
