"""Schedules: nanoGPT's numbers, no jumps, never outside [0, 1]."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from nanogpt_kit.api import Schedule
from nanogpt_kit.components.schedule.constant import Constant
from nanogpt_kit.components.schedule.cosine import Cosine

STEPS, WARMUP = 300, 20


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


@pytest.mark.parametrize("schedule", [Cosine(warmup_steps=WARMUP, final_fraction=0.2), Constant(warmup_steps=WARMUP)])
def test_no_step_is_lost_and_none_jumps(schedule: Schedule) -> None:
    values = [schedule.multiplier(step, STEPS) for step in range(STEPS + 1)]
    assert values[0] == pytest.approx(1 / (WARMUP + 1))
    assert max(values) == values[WARMUP] == 1.0
    assert min(values) > 0
    jumps = [abs(after - before) for before, after in pairwise(values)]
    assert max(jumps) <= 1 / (WARMUP + 1) + 1e-12


@pytest.mark.parametrize(
    "schedule", [Cosine(warmup_steps=0), Cosine(warmup_steps=STEPS), Cosine(warmup_steps=7 * STEPS)]
)
def test_a_warmup_of_any_length_stays_within_bounds(schedule: Schedule) -> None:
    assert all(0 < schedule.multiplier(step, STEPS) <= 1 for step in range(STEPS + 1))


def test_constant_stays_at_the_peak_after_its_warmup() -> None:
    assert {Constant().multiplier(step, STEPS) for step in range(STEPS)} == {1.0}
    warming = Constant(warmup_steps=3)
    assert [warming.multiplier(step, STEPS) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_only_the_cosine_without_decay_steps_depends_on_the_length_of_the_run() -> None:
    assert Cosine().multiplier(200, STEPS) != Cosine().multiplier(200, 2 * STEPS)
    assert Cosine(decay_steps=STEPS).multiplier(200, STEPS) == Cosine(decay_steps=STEPS).multiplier(200, 2 * STEPS)
    assert Constant(warmup_steps=9).multiplier(5, STEPS) == Constant(warmup_steps=9).multiplier(5, 2 * STEPS)
