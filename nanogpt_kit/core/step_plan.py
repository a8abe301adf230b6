"""The batches of a run, step by step: how many windows each has, and how long those are.

Without schedules of `train.batch_tokens` and `model.block_size` all steps are alike, and all of this is arithmetic.
With one, the windows of a step begin where those of the steps before it end. Their sums are computed once, for the
whole run, so that a batch remains a function of its step. So the progress of these schedules is measured in steps and
tokens, never in seconds, which only a clock knows.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.kinds import Schedule
from nanogpt_kit.core.made_with import Unresolved

BATCH_TOKENS, BLOCK_SIZE = "train.batch_tokens", "model.block_size"  # the targets that shape batches
MAX_STEPS = 2_000_000  # of a run with such a schedule: each takes 16 bytes and 1 to 4 microseconds (measured)
MAX_BATCH_TOKENS = 10**12  # the bound of train.batch_tokens
ROUNDING = 1e-6  # of a window or a token: what the arithmetic of a multiplier may lose


@dataclass(frozen=True)
class StepBatch:
    """What one step trains on, over all ranks."""

    first_window: int  # the number of windows in the steps before
    n_windows: int  # of block_size tokens
    length: int  # tokens of each of the equal parts that the windows are cut into; a divisor of block_size


class PlanError(KitError):
    """A schedule that no plan can follow; `target` is its target."""

    def __init__(self, target: str, reason: str) -> None:
        super().__init__(reason)
        self.target = target


@dataclass(frozen=True)
class StepPlan:
    """The batch of each step.

    What has to be computed step by step raises PlanError where a schedule gives what no batch can be.
    """

    batch_tokens: int  # as written, which the schedule multiplies
    block_size: int
    steps: int = 10**12
    max_tokens: int | None = None
    batch_schedule: Schedule | None = None
    length_schedule: Schedule | None = None

    @property
    def has_equal_steps(self) -> bool:
        """Whether no schedule shapes the batches."""
        return self.batch_schedule is None and self.length_schedule is None

    @property
    def total_steps(self) -> int:
        """Steps within both `train.steps` and `train.max_tokens`."""
        if self.max_tokens is None:
            return self.steps
        if self.batch_schedule is None:
            return min(self.steps, self.max_tokens // self.batch_tokens)
        return len(self._table.lengths)

    @property
    def total_tokens(self) -> int:
        return self.tokens(self.total_steps)

    def tokens(self, n_steps: int) -> int:
        """The number of tokens that the first `n_steps` steps predict, where every token of their windows counts."""
        if self.batch_schedule is None:
            return n_steps * self.batch_tokens
        return self.at(n_steps).first_window * self.block_size

    def with_steps(self, steps: int) -> StepPlan:
        """The plan of a run that only its steps end."""
        return replace(self, steps=steps, max_tokens=None)

    def __str__(self) -> str:
        """Such as "8 steps of 64 tokens"; where steps differ, "8 steps with 240 tokens"."""
        if self.has_equal_steps:
            return f"{self.total_steps:,} steps of {self.batch_tokens:,} tokens"
        if not self.is_known:
            return f"at most {self.steps:,} steps"
        return f"{self.total_steps:,} steps with {self.total_tokens:,} tokens"

    @property
    def is_known(self) -> bool:
        """Whether its schedules are installed, which need not be so where a run is only read."""
        return not any(isinstance(one, Unresolved) for one in (self.batch_schedule, self.length_schedule))

    def check(self) -> None:
        """Raises PlanError where a schedule gives what no batch can be, or where there are too many steps."""
        if not self.has_equal_steps:
            len(self._table.lengths)

    def at(self, step: int) -> StepBatch:
        """The batch of step `step`, counted from 0. Steps after the last one of the run have the batch of that one."""
        if not self.has_equal_steps:
            return self._table.at(step)
        windows = self.batch_tokens // self.block_size
        return StepBatch(step * windows, windows, self.block_size)

    def pace(self, step: int) -> float:
        """The length of the run in steps: what schedules get as `total_steps`.

        It is exact, except where `train.max_tokens` bounds steps of different sizes: then it is the length at the pace
        of the steps before `step`.
        """
        if self.max_tokens is None or self.batch_schedule is None:
            return self.total_steps
        return self._pace(step, self.tokens(step))

    @property
    def largest_step(self) -> int:
        """The first step with the most windows."""
        return 0 if self.has_equal_steps else self._table.largest_step

    @property
    def most_windows(self) -> int:
        """The windows of that step."""
        return self.at(self.largest_step).n_windows

    @property
    def lengths(self) -> set[int]:
        """All lengths of windows, or of the parts that they are cut into."""
        return {self.block_size} if self.has_equal_steps else {*self._table.lengths} or {self.block_size}

    @property
    def length_note(self) -> str | None:
        """That windows are cut much shorter than the schedule says, as a sentence; None where they are not."""
        for length, following in pairwise(divisors_of(self.block_size)):
            if following > 2 * length and length in self.lengths:
                given = f"where the schedule gives {length} to {following - 1} tokens"
                reason = f"since model.block_size ({self.block_size}) has no divisor between; a power of two has"
                return f"windows are cut into parts of {length} {given}, {reason}"
        return None

    @property
    def window_counts(self) -> set[int]:
        """All numbers of windows that a step has."""
        if self.batch_schedule is None:
            return {self.most_windows}
        return {after - before for before, after in pairwise(self._table.first_windows)} or {self.most_windows}

    @cached_property
    def _table(self) -> StepTable:
        table = StepTable(self.batch_tokens // self.block_size, self.block_size)
        limit = self.steps if self.batch_schedule is not None else self.total_steps
        if limit > MAX_STEPS and (self.max_tokens is None or self.batch_schedule is None):
            raise self.too_long()
        divisors = divisors_of(self.block_size)
        for step in range(min(limit, MAX_STEPS)):
            tokens = table.first_windows[-1] * self.block_size
            pace = limit if self.max_tokens is None or self.batch_schedule is None else self._pace(step, tokens)
            windows = self._windows(step, pace)
            table.next_windows = windows
            if self.max_tokens is not None and tokens + windows * self.block_size > self.max_tokens:
                return table
            table.append(windows, self._length(step, pace, divisors))
        if limit > MAX_STEPS:
            raise self.too_long()
        return table

    def too_long(self) -> PlanError:
        target = BATCH_TOKENS if self.batch_schedule is not None else BLOCK_SIZE
        reason = f"a run with a schedule of {target} has at most {MAX_STEPS:,} steps"
        remedy = "set train.steps or train.max_tokens to the length of the run"
        return PlanError(target, f"{reason}, and train.steps is {self.steps:,}; {remedy}")

    def _pace(self, step: int, tokens: int) -> float:
        """The length of a run of `step` steps with `tokens` tokens so far, and of `max_tokens` in all."""
        assert self.max_tokens is not None
        if step == 0:
            return max(1, min(self.steps, self.max_tokens // self.batch_tokens))
        return min(self.steps, step * self.max_tokens / tokens)

    def _windows(self, step: int, pace: float) -> int:
        if self.batch_schedule is None:
            return self.batch_tokens // self.block_size
        multiplier = batch_multiplier(self.batch_schedule, BATCH_TOKENS, step, pace)
        tokens = multiplier * self.batch_tokens
        if tokens > MAX_BATCH_TOKENS:
            reason = f"is {multiplier:g}, which makes {tokens:.3g} tokens; expected at most {MAX_BATCH_TOKENS:,}"
            raise PlanError(BATCH_TOKENS, f"the multiplier of step {step + 1} {reason}")
        return max(1, math.floor(tokens / self.block_size + ROUNDING))

    def _length(self, step: int, pace: float, divisors: list[int]) -> int:
        """The largest divisor of block_size that is not above the scheduled length, so that parts are equal."""
        if self.length_schedule is None:
            return self.block_size
        multiplier = batch_multiplier(self.length_schedule, BLOCK_SIZE, step, pace)
        if multiplier > 1 + ROUNDING:
            reason = f"is {multiplier:g}; expected at most 1, since no window is longer than model.block_size"
            raise PlanError(BLOCK_SIZE, f"the multiplier of step {step + 1} {reason}")
        return divisors[max(0, bisect_right(divisors, multiplier * self.block_size + ROUNDING) - 1)]


@dataclass
class StepTable:
    """The batches of all steps of a run, which differ."""

    next_windows: int  # of the newest step, appended or not
    block_size: int
    first_windows: array[int] = field(default_factory=lambda: array("q", [0]))  # of each step, and of the one after
    lengths: array[int] = field(default_factory=lambda: array("q"))
    largest_step: int = 0
    most_windows: int = 0

    def append(self, windows: int, length: int) -> None:
        if windows > self.most_windows:
            self.most_windows, self.largest_step = windows, len(self.lengths)
        self.first_windows.append(self.first_windows[-1] + windows)
        self.lengths.append(length)

    def at(self, step: int) -> StepBatch:
        n, first = len(self.lengths), self.first_windows
        if step < n:
            return StepBatch(first[step], first[step + 1] - first[step], self.lengths[step])
        windows, length = (first[n] - first[n - 1], self.lengths[n - 1]) if n else (self.next_windows, self.block_size)
        return StepBatch(first[n] + (step - n) * windows, windows, length)


def divisors_of(number: int) -> list[int]:
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


def batch_multiplier(schedule: Schedule, target: str, step: int, pace: float) -> float:
    """Raises PlanError where it is not a number above 0: a batch of no tokens trains nothing."""
    multiplier = schedule.multiplier(step, pace)
    if not isinstance(multiplier, int | float) or not (0 < multiplier < math.inf):
        reason = f"the multiplier of step {step + 1} is {multiplier!r}"
        raise PlanError(target, f"{reason}; expected a finite number above 0")
    return multiplier
