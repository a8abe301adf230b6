"""The suite for schedules fails where a schedule is broken: each break is seen by the test beside it."""

from __future__ import annotations

import math
import random
import time
from typing import Any

import pytest

from nanogpt_kit.api import Schedule
from nanogpt_kit.components.schedule.linear import Linear
from nanogpt_kit.testing.schedule import ScheduleConformance
from tests.testing.remedies import assert_fails

LENGTHS: dict[bool, float] = {}


class Broken(Linear):
    """In the way that `how` says."""

    how: str = "not"

    def multiplier(self, step: int, total_steps: float) -> float:
        value = super().multiplier(step, total_steps)
        if self.how == "negative":
            return value - 0.5
        if self.how == "infinite":
            return float("inf") if step + 1 == total_steps else value
        if self.how == "a text":
            return str(value)  # type: ignore[return-value]
        if self.how == "by global chance":
            return value * random.random()
        if self.how == "goes by the last length":
            last, LENGTHS[True] = LENGTHS.get(True, total_steps), total_steps
            return super().multiplier(step, last)
        if self.how == "needs a whole length":
            return value + 0 * len(range(total_steps))  # type: ignore[arg-type]
        if self.how == "treats a real number in another way":
            return value if isinstance(total_steps, int) else value / 2
        if self.how == "writes out the run":
            return [value for _ in range(math.ceil(total_steps))][step]
        if self.how == "slow":
            time.sleep(0.002)
        return value

    def note(self, total_steps: float) -> Any:
        return 3 if self.how == "a number as note" else super().note(total_steps)


CAUGHT: dict[str, tuple[Any, ...]] = {
    "negative": ("test_each_multiplier_is_a_finite_number_that_is_not_negative", 1000),
    "infinite": ("test_each_multiplier_is_a_finite_number_that_is_not_negative", 29),
    "a text": ("test_each_multiplier_is_a_finite_number_that_is_not_negative", 2),
    "by global chance": ("test_the_same_step_always_has_the_same_multiplier",),
    "goes by the last length": ("test_the_same_step_always_has_the_same_multiplier",),
    "needs a whole length": ("test_a_length_need_not_be_whole",),
    "treats a real number in another way": ("test_a_length_need_not_be_whole",),
    "a number as note": ("test_a_note_is_a_sentence_or_none",),
    "writes out the run": ("test_a_late_step_takes_no_longer",),
    "slow": ("test_a_late_step_takes_no_longer",),
}


def suite(component: Schedule) -> Any:
    return type("Suite", (ScheduleConformance,), {"component": component})()


@pytest.mark.parametrize("how", CAUGHT)
def test_a_broken_schedule_is_caught(how: str) -> None:
    LENGTHS.clear()
    test, *arguments = CAUGHT[how]
    getattr(suite(Linear()), test)(*arguments)
    assert_fails(suite(Broken(how=how)), test, *arguments)
