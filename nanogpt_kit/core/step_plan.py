"""The batches of a run, step by step: how many windows each has, and how long those are.

Without schedules of `train.batch_tokens` and `model.block_size` all steps are alike, and all of this is arithmetic.
With one, the windows of a step begin where those of the steps before it end. Their sums are computed once for the whole
run, so that a batch remains a function of its step. So the progress of these schedules is measured in steps and tokens,
never in seconds, which only a clock knows.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from nanogpt_kit.core.kinds import Schedule

if TYPE_CHECKING:
    from nanogpt_kit.core.experiment import Experiment

BATCH_TOKENS, BLOCK_SIZE = "train.batch_tokens", "model.block_size"  # the targets that shape batches
MAX_STEPS = 4_000_000  # of a plan with schedules: 16 bytes and about a microsecond each
MAX_BATCH_TOKENS = 10**12  # as the bound of train.batch_tokens
ROUNDING = 1e-6  # of a window or a token, which the arithmetic of a multiplier may have lost


@dataclass(frozen=True)
class StepBatch:
    """What one step trains on, over all ranks."""

    first_window: int  # the number of windows in the steps before
    n_windows: int  # of block_size tokens
    length: int  # tokens of each of the equal parts that the windows are cut into


class PlanError(ValueError):
    """A schedule with which no plan can be made; `target` says which."""

    def __init__(self, target: str, reason: str) -> None:
        super().__init__(reason)
        self.target = target


@dataclass(frozen=True)
class StepPlan:
    """The number of windows and their length for each step of a run. Compares by what it is made of.

    Everything that has to be computed step by step raises PlanError where a schedule is to blame.
    """

    batch_tokens: int
    block_size: int
    steps: int = 10**12
    max_tokens: int | None = None
    batch_schedule: Schedule | None = None
    length_schedule: Schedule | None = None

    @classmethod
    def of(cls, experiment: Experiment) -> StepPlan:
        """A new plan; `Experiment.step_plan` keeps what it has computed."""
        train = experiment.train
        return cls(
            train.batch_tokens,
            experiment.model.block_size,
            train.steps,
            train.max_tokens,
            experiment.schedule_of(BATCH_TOKENS),
            experiment.schedule_of(BLOCK_SIZE),
        )

    @property
    def has_equal_steps(self) -> bool:
        """Whether all steps have the same number of windows, of the same length."""
        return self.batch_schedule is None and self.length_schedule is None

    @property
    def total_steps(self) -> int:
        """Steps within both `train.steps` and `train.max_tokens`."""
        if self.max_tokens is None:
            return self.steps
        if self.batch_schedule is None:
            return min(self.steps, self.max_tokens // self.batch_tokens)
        return len(self._steps.lengths)

    @property
    def total_tokens(self) -> int:
        return self.tokens(self.total_steps)

    def tokens(self, n_steps: int) -> int:
        """The number of tokens in the windows of the first `n_steps` steps."""
        return self.at(n_steps).first_window * self.block_size

    def at(self, step: int) -> StepBatch:
        """The batch of step `step`, counted from 0. After the last step, all are like that one."""
        if self.has_equal_steps:
            windows = self.batch_tokens // self.block_size
            return StepBatch(step * windows, windows, self.block_size)
        return self._steps.at(step)

    def pace(self, step: int) -> float:
        """The length of the run in steps, as schedules take it: exact, unless `train.max_tokens` bounds steps of
        different sizes; then the length at the pace of the steps before `step`."""
        if self.batch_schedule is None or self.max_tokens is None:
            return self.total_steps
        return self._pace(step, self.tokens(step), self.max_tokens)

    @property
    def largest(self) -> StepBatch:
        """The batch of the first step with the most windows."""
        if self.has_equal_steps:
            return self.at(0)
        return self.at(self._steps.largest)
