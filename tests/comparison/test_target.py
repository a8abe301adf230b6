"""Steps, tokens and seconds to a target."""

from __future__ import annotations

import math

import pytest

from nanogpt_kit.comparison.target import Evaluation, reach_target


def curve(*values: float, first: int = 10, every: int = 10, speed: float = 2.0) -> list[Evaluation]:
    steps = range(first, first + every * len(values), every)
    return [Evaluation(step, step * 64, step / speed, value) for step, value in zip(steps, values, strict=True)]


def test_all_seeds_stop_at_the_step_at_which_their_mean_reaches_the_target() -> None:
    runs = {1: curve(3.2, 2.9, 2.7, 2.5), 2: curve(3.4, 3.2, 3.0, 2.6, speed=4.0)}
    found = reach_target(runs, 2.9, "minimize")
    assert found is not None
    assert (found.step, found.tokens, found.seconds) == (30, 30 * 64, (15 + 7.5) / 2)
    assert found.value == pytest.approx(2.85)


def test_a_target_that_is_reached_exactly_counts_and_one_that_is_never_reached_is_none() -> None:
    runs = {1: curve(3.0, 2.0), 2: curve(3.0, 1.0)}
    assert reach_target(runs, 1.5, "minimize") == (20, 1280, 10, 1.5)
    assert reach_target(runs, 1.49, "minimize") is None
    assert reach_target({}, 3.0, "minimize") is None
    assert reach_target({1: []}, 3.0, "minimize") is None


def test_a_metric_that_is_maximized_reaches_its_target_from_below() -> None:
    found = reach_target({1: curve(0.2, 0.5, 0.4), 2: curve(0.3, 0.6, 0.9)}, 0.55, "maximize")
    assert found is not None
    assert found.step == 20


def test_only_steps_that_every_seed_evaluated_count() -> None:
    runs = {1: curve(3.0, 1.0, 1.0, every=10), 2: curve(3.0, 1.0, every=20)}
    found = reach_target(runs, 2.0, "minimize")
    assert found is not None
    assert found.step == 30
    assert reach_target({**runs, 3: []}, 2.0, "minimize") is None


def test_the_last_of_several_evaluations_at_a_step_counts_and_a_value_that_is_not_finite_reaches_nothing() -> None:
    runs = {1: [*curve(1.0), *curve(3.0, 1.5)], 2: curve(math.nan, 1.0)}
    found = reach_target(runs, 2.0, "minimize")
    assert found is not None
    assert found.step == 20
