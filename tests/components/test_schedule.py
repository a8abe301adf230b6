"""Schedules: nanoGPT's numbers, no jumps, never outside [0, 1]."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from nanogpt_kit.api import Schedule
from nanogpt_kit.components.schedule.constant import Constant
from nanogpt_kit.components.schedule.cosine import Cosine
from nanogpt_kit.components.schedule.inverse_sqrt import InverseSqrt
from nanogpt_kit.components.schedule.linear import Linear
from nanogpt_kit.components.schedule.piecewise import Piecewise
from nanogpt_kit.components.schedule.wsd import WSD
from nanogpt_kit.testing.schedule import ScheduleConformance

STEPS, WARMUP = 300, 20


class TestConstant(ScheduleConformance):
    component = Constant(warmup_steps=3)


class TestCosine(ScheduleConformance):
    component = Cosine()


class TestCosineUntilAStep(ScheduleConformance):
    component = Cosine(warmup_steps=7, decay_steps=300, final_fraction=0.0)


class TestInverseSqrt(ScheduleConformance):
    component = InverseSqrt()


class TestLinear(ScheduleConformance):
    component = Linear()


class TestPiecewise(ScheduleConformance):
    component = Piecewise(knots=((0.1, 0.2), (0.4, 3.0), (0.9, 0.0)))


class TestPiecewiseInSteps(ScheduleConformance):
    component = Piecewise(knots=((0, 1), (0.5, 0.25)), shape="stepped")


class TestWSD(ScheduleConformance):
    component = WSD(shape="sqrt")


def published_learning_rate(it: int, lr: float, min_lr: float, warmup_iters: int, lr_decay_iters: int) -> float:
    """nanoGPT: a line from lr / (warmup + 1), then half a cosine from lr down to min_lr, then min_lr."""
    if it < warmup_iters:
        return lr * (it + 1) / (warmup_iters + 1)
    if it > lr_decay_iters:
        return min_lr
    angle = math.pi * (it - warmup_iters) / (lr_decay_iters - warmup_iters)
    return (lr + min_lr) / 2 + (lr - min_lr) / 2 * math.cos(angle)  # the middle, and half the way around it


@pytest.mark.parametrize("final_fraction", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("decay_steps", [None, 250])
@pytest.mark.parametrize("warmup_steps", [0, 1, WARMUP])
def test_cosine_is_nanogpts(warmup_steps: int, decay_steps: int | None, final_fraction: float) -> None:
    schedule = Cosine(warmup_steps=warmup_steps, decay_steps=decay_steps, final_fraction=final_fraction)
    peak = 6e-4
    for step in range(STEPS + 10):
        expected = published_learning_rate(step, peak, final_fraction * peak, warmup_steps, decay_steps or STEPS)
        assert peak * schedule.multiplier(step, STEPS) == pytest.approx(expected, rel=1e-12, abs=1e-18)


@pytest.mark.parametrize(
    "schedule",
    [
        Cosine(warmup_steps=WARMUP, final_fraction=0.2),
        Constant(warmup_steps=WARMUP),
        Linear(warmup_steps=WARMUP, final_fraction=0.2),
        WSD(warmup_steps=WARMUP, final_fraction=0.2),
        WSD(warmup_steps=WARMUP, final_fraction=0.2, decay_fraction=0.5),
        InverseSqrt(warmup_steps=WARMUP),
    ],
)
def test_no_step_is_lost_and_none_jumps(schedule: Schedule) -> None:
    values = [schedule.multiplier(step, STEPS) for step in range(STEPS + 1)]
    assert values[0] == pytest.approx(1 / (WARMUP + 1))
    assert max(values) == values[WARMUP] == 1.0
    assert min(values) > 0
    jumps = [abs(after - before) for before, after in pairwise(values)]
    assert max(jumps) <= 1 / (WARMUP + 1) + 1e-12


@pytest.mark.parametrize("warmup_steps", [0, STEPS, 7 * STEPS])
@pytest.mark.parametrize("kind", [Cosine, Linear, WSD, InverseSqrt, Constant])
def test_a_warmup_of_any_length_stays_within_bounds(kind: Any, warmup_steps: int) -> None:
    schedule = kind(warmup_steps=warmup_steps)
    assert all(0 < schedule.multiplier(step, STEPS) <= 1 for step in range(STEPS))
    assert all(0 <= schedule.multiplier(step, STEPS) <= 1 for step in range(STEPS, 9 * STEPS))


def test_constant_stays_at_the_peak_after_its_warmup() -> None:
    assert {Constant().multiplier(step, STEPS) for step in range(STEPS)} == {1.0}
    warming = Constant(warmup_steps=3)
    assert [warming.multiplier(step, STEPS) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_linear_is_transformers_schedule() -> None:
    """Hugging Face's get_linear_schedule_with_warmup, but for the warmup, which counts as nanoGPT's."""
    schedule = Linear(warmup_steps=WARMUP)
    for step in range(WARMUP, STEPS):
        assert schedule.multiplier(step, STEPS) == pytest.approx((STEPS - step) / (STEPS - WARMUP))
    assert Linear(warmup_steps=0, final_fraction=0.5).multiplier(STEPS // 2, STEPS) == pytest.approx(0.75)


@pytest.mark.parametrize("shape", ["linear", "sqrt"])
def test_wsd_is_at_the_peak_until_it_decays(shape: Any) -> None:
    schedule = WSD(warmup_steps=WARMUP, decay_fraction=0.4, shape=shape, final_fraction=0.1)
    assert {schedule.multiplier(step, STEPS) for step in range(WARMUP, 181)} == {1.0}
    for step in range(180, STEPS):
        progress = (step - 180) / 120
        left = 1 - progress if shape == "linear" else 1 - progress**0.5
        assert schedule.multiplier(step, STEPS) == pytest.approx(0.1 + 0.9 * left)
    assert {WSD(warmup_steps=0, decay_fraction=0.0).multiplier(step, STEPS) for step in range(STEPS)} == {1.0}


def test_inverse_sqrt_is_that_of_the_transformer() -> None:
    """d^-0.5 min(step^-0.5, step warmup^-1.5) of section 5.3, over its largest value; their steps count from 1."""
    schedule, warmup = InverseSqrt(warmup_steps=WARMUP), WARMUP + 1
    for step in range(1, STEPS):
        expected = min(step**-0.5, step * warmup**-1.5) / warmup**-0.5
        assert schedule.multiplier(step - 1, STEPS) == pytest.approx(expected)


def test_piecewise_is_numpys_interpolation() -> None:
    knots = ((0.1, 0.2), (0.4, 3.0), (0.9, 0.5))
    linear, stepped = Piecewise(knots=knots), Piecewise(knots=knots, shape="stepped")
    for step in range(STEPS + 10):
        expected = np.interp(step / STEPS, *zip(*knots, strict=True))
        assert linear.multiplier(step, STEPS) == pytest.approx(expected, rel=1e-12)
    assert [stepped.multiplier(step, STEPS) for step in (0, 29, 30, 119, 120, 269, 270, 299)] == [
        *(0.2, 0.2, 0.2, 0.2, 3.0, 3.0, 0.5, 0.5)
    ]
    assert linear.multiplier(5, 10.5) == pytest.approx(np.interp(5 / 10.5, *zip(*knots, strict=True)))


@pytest.mark.parametrize(
    ("knots", "message"),
    [
        (((0.5, 1), (0.5, 2)), "the fractions of the run should increase, and 0.5 follows 0.5"),
        (((0.5, 1), (0.2, 2)), "the fractions of the run should increase, and 0.2 follows 0.5"),
        ((), "at least 1"),
        (((0, -1),), "greater than or equal to 0"),
        (((1.5, 1),), "less than or equal to 1"),
    ],
)
def test_knots_that_are_no_course_of_a_run_are_refused(knots: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Piecewise(knots=knots)


def test_only_some_depend_on_the_length_of_the_run() -> None:
    """The others may be prolonged."""
    for schedule in (Cosine(), Linear(), WSD()):
        assert schedule.multiplier(290, STEPS) != schedule.multiplier(290, 2 * STEPS)
    for schedule in (Cosine(decay_steps=STEPS), Constant(warmup_steps=9), InverseSqrt()):
        assert schedule.multiplier(200, STEPS) == schedule.multiplier(200, 2 * STEPS)
