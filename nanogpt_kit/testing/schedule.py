"""The suite for schedules: pure functions of the progress, with multipliers that every target can take."""

from __future__ import annotations

import math
import random
import time
from statistics import median
from typing import ClassVar

import pytest

from nanogpt_kit.core.kinds import Schedule
from nanogpt_kit.testing.component import ComponentConformance
from nanogpt_kit.testing.remedy import errors_as_failures

LENGTHS = (1, 2, 29, 1000, 10**5)  # steps, down to a run that is shorter than any warmup
MAX_STEPS = 500  # of a length, at which a multiplier is computed
LENGTH = 997
by_length = pytest.mark.parametrize("length", LENGTHS)


class ScheduleConformance(ComponentConformance):
    """Subclass it with `component = MySchedule(...)`."""

    component: ClassVar[Schedule]

    def multiplier(self, step: int, total_steps: float) -> float:
        """As the loop computes it."""
        with errors_as_failures(
            f"step {step} of {total_steps!r}: it fails; take any step from 0 on, and any length, whole or not"
        ):
            return self.component.multiplier(step, total_steps)

    def steps(self, length: int) -> list[int]:
        """From the first to the last step of a run."""
        return [*range(0, length, max(1, length // MAX_STEPS)), length - 1]

    @by_length
    def test_each_multiplier_is_a_finite_number_that_is_not_negative(self, length: int) -> None:
        for step in self.steps(length):
            found = self.multiplier(step, length)
            case = f"step {step} of {length}: the multiplier is {found!r}"
            assert isinstance(found, int | float), f"{case}, a {type(found).__name__}: return float(...)"
            assert 0 <= found < math.inf, f"{case}: keep it at 0 or above, and divide by nothing that can be 0"

    def test_the_same_step_always_has_the_same_multiplier(self) -> None:
        """Whatever was computed before it, as a resumed run begins in the middle, and of whatever length."""
        steps = self.steps(1000)
        random.seed(1)
        first = [self.multiplier(step, 1000) for step in steps]
        random.seed(2)
        for step, before in zip(reversed(steps), reversed(first), strict=True):
            self.multiplier(step, 1000 + 7.3 * step)
            again = self.multiplier(step, 1000)
            remedy = "compute it from the step and total_steps alone, and keep nothing from call to call"
            assert again == before, f"step {step}: the multiplier is {before} first and {again} later: {remedy}"

    def test_a_length_need_not_be_whole(self) -> None:
        """Where seconds end the run, it is the length at the pace so far."""
        for step in range(LENGTH - 1):
            whole, real = self.multiplier(step, LENGTH), self.multiplier(step, float(LENGTH))
            assert whole == real, f"step {step}: {whole} of {LENGTH} and {real} of {float(LENGTH)}: treat both alike"
            found = self.multiplier(step, LENGTH - 0.4)
            assert 0 <= found < math.inf, (
                f"step {step} of {LENGTH - 0.4}: the multiplier is {found!r}: keep it at 0 or above"
            )

    def test_a_note_is_a_sentence_or_none(self) -> None:
        for length in (0, *LENGTHS):
            with errors_as_failures(f"note({length}) fails: a run may have any number of steps, and 0"):
                note = self.component.note(length)
            is_text = note is None or (isinstance(note, str) and note.strip())
            assert is_text, f"note({length}) is {note!r}: return a sentence, or None where there is nothing to say"

    def test_a_late_step_takes_no_longer(self) -> None:
        seconds = []
        for step in range(10**6 - 31, 10**6):
            began = time.perf_counter()
            self.multiplier(step, 10**6)
            seconds.append(time.perf_counter() - began)
        assert median(seconds) < 1e-3, (
            f"{median(seconds):.6f} s for a late step: compute it from the step, not from the steps before"
        )
