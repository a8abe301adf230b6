"""What is concluded from the values of arms by seed."""

from __future__ import annotations

import math
import random

import pytest

from nanogpt_kit.comparison.intervals import look_alpha
from nanogpt_kit.comparison.judgement import judge_arms
from nanogpt_kit.comparison.record import Result

BASE = {11: 3.10, 12: 3.25, 13: 2.95, 14: 3.05}


def judge_shifts(*shifts: float, direction: str = "minimize", looks: int = 1) -> Result:
    (result,) = judge_arms([BASE, shift(BASE, *shifts)], direction, looks)
    return result


def shift(values: dict[int, float], *shifts: float) -> dict[int, float]:
    return {seed: values[seed] + by for seed, by in zip(values, shifts, strict=False)}


def test_a_contender_that_is_lower_with_every_seed_is_better_where_the_metric_is_minimized() -> None:
    result = judge_shifts(-0.10, -0.12, -0.11, -0.09)
    assert (result.verdict, result.wins, result.seeds) == ("better", 4, (11, 12, 13, 14))
    assert result.difference == pytest.approx(-0.105)
    assert result.high is not None
    assert result.high < 0
    assert result.mean == pytest.approx(sum(BASE.values()) / 4 - 0.105)
    assert result.more_seeds is None
    assert result.reason == ""


def test_the_same_contender_is_worse_where_the_metric_is_maximized() -> None:
    result = judge_shifts(-0.10, -0.12, -0.11, -0.09, direction="maximize")
    assert (result.verdict, result.wins) == ("worse", 0)


def test_three_seeds_of_differing_sign_are_undecided_and_the_seeds_that_would_decide_them_are_counted() -> None:
    result = judge_shifts(0.036, 0.110, -0.004)
    assert (result.verdict, result.wins, result.level) == ("undecided", 1, 0.95)
    assert (result.low, result.high) == pytest.approx((-0.0963, 0.1910), abs=5e-5)
    assert result.p_value == pytest.approx(0.2921, abs=5e-5)
    assert result.more_seeds == 16  # at the level of the second look


def test_a_later_look_has_a_wider_interval() -> None:
    first, second = (judge_shifts(-0.10, -0.16, -0.06, -0.09, looks=looks) for looks in (1, 2))
    assert (first.verdict, second.verdict) == ("better", "undecided")
    assert second.level == 1 - look_alpha(2)
    assert first.difference == second.difference


def test_an_identical_contender_is_undecided_with_an_interval_of_zero() -> None:
    result = judge_shifts(0, 0, 0, 0)
    assert (result.verdict, result.difference, result.low, result.high) == ("undecided", 0, 0, 0)
    assert (result.p_value, result.wins, result.more_seeds) == (1, 0, None)


def test_a_difference_that_is_the_same_for_every_seed_has_an_unknown_spread() -> None:
    base = {1: 0.1, 2: 3.7, 3: 60.3}
    contender = {seed: value + 0.02 for seed, value in base.items()}
    assert len({contender[seed] - value for seed, value in base.items()}) == 3, "they differ by rounding"
    (result,) = judge_arms([base, contender], "minimize")
    assert result.verdict == "undecided"
    assert "same for every seed" in result.reason
    assert (result.low, result.high, result.p_value, result.more_seeds) == (None, None, None, None)
    assert result.difference == pytest.approx(0.02)


def test_one_pair_has_no_interval() -> None:
    result = judge_shifts(-1.0)
    assert (result.verdict, result.seeds, result.low, result.high) == ("undecided", (11,), None, None)
    assert result.difference == pytest.approx(-1.0)
    assert result.difference_sd is None
    assert "one pair" in result.reason


def test_arms_without_a_common_seed_have_no_difference() -> None:
    (result,) = judge_arms([BASE, {21: 1.0, 22: 2.0}], "minimize")
    assert (result.verdict, result.seeds, result.difference) == ("undecided", (), None)
    assert result.mean == 1.5
    assert "no seed" in result.reason


def test_only_seeds_of_both_are_paired() -> None:
    contender = {**shift(BASE, -0.1, -0.13, -0.11), 99: 50.0}
    (result,) = judge_arms([BASE, contender], "minimize")
    assert result.seeds == (11, 12, 13)
    assert result.verdict == "better"


@pytest.mark.parametrize("lost", [math.nan, math.inf, -math.inf, 1e200, None])
def test_a_contender_that_failed_with_a_seed_is_not_better_and_the_seed_is_named(lost: float | None) -> None:
    contender = shift(BASE, -0.10, -0.12, -0.11)
    contender |= {14: lost} if lost is not None else {}
    (result,) = judge_arms([BASE, contender], "minimize", failed=[(), () if lost is not None else (14,)])
    assert (result.verdict, result.seeds, result.more_seeds) == ("undecided", (11, 12, 13), None)
    assert "contender failed with seed 14" in result.reason
    assert result.high is not None
    assert result.high < 0


def test_a_contender_that_failed_with_a_seed_can_be_worse() -> None:
    (result,) = judge_arms([BASE, shift(BASE, 0.10, 0.12, 0.11)], "minimize", failed=[(), (14,)])
    assert (result.verdict, result.seeds) == ("worse", (11, 12, 13))


def test_no_contender_is_worse_than_a_base_that_failed() -> None:
    arms = [shift(BASE, 0, 0, 0), shift(BASE, 0.10, 0.12, 0.11, 0.1), shift(BASE, -0.1, -0.12, -0.11, 0)]
    worse, better = judge_arms(arms, "minimize", failed=[(14, 15), (), ()])
    assert (worse.verdict, better.verdict) == ("undecided", "better")
    assert "base failed with seeds 14 and 15" in worse.reason


def test_a_seed_that_failed_in_both_arms_is_only_left_out() -> None:
    (result,) = judge_arms([shift(BASE, 0, 0, 0), shift(BASE, -0.10, -0.12, -0.11)], "minimize", failed=[(14,), (14,)])
    assert result.verdict == "better"


def test_a_failed_run_has_no_value_even_if_it_reported_one() -> None:
    (result,) = judge_arms([BASE, shift(BASE, -0.10, -0.12, -0.11, -0.1)], "minimize", failed=[(), (12,)])
    assert result.seeds == (11, 13, 14)


def test_of_several_contenders_verdict_and_interval_agree_and_levels_are_those_of_holm() -> None:
    source = random.Random(5)
    decided = 0
    for _ in range(300):
        noise = [{seed: value + source.gauss(0, 0.05) for seed, value in BASE.items()} for _ in range(6)]
        arms = [noise[0], *(shift(arm, *[0.09 * step] * 4) for step, arm in enumerate(noise[1:]))]
        results = judge_arms(arms, "minimize")
        for result in results:
            assert result.low is not None
            assert result.high is not None
            assert (result.verdict != "undecided") == (not result.low <= 0 <= result.high)
            assert (result.verdict != "undecided") == (
                result.p_value is not None and result.p_value <= 1 - result.level
            )
        levels = sorted(1 - result.level for result in results)
        rejected = sum(result.verdict != "undecided" for result in results)
        last = min(rejected, 4)
        assert levels == pytest.approx([0.05 / (5 - min(step, last)) for step in range(5)])
        decided += rejected
    assert 300 < decided < 1200


def test_more_seeds_count_that_holm_tests_a_contender_only_after_those_before_it() -> None:
    strong, weak = (-0.02, -0.09, -0.01, -0.05), (-0.03, -0.09, -0.03, 0.005)
    first, second = judge_arms([BASE, shift(BASE, *strong), shift(BASE, *weak)], "minimize")
    (alone,) = judge_arms([BASE, shift(BASE, *weak)], "minimize")
    assert (first.verdict, second.verdict) == ("undecided", "undecided")
    assert first.more_seeds is not None
    assert second.more_seeds is not None
    assert second.more_seeds == alone.more_seeds  # it is the last one of the two, at the whole level
    assert judge_arms([BASE, shift(BASE, *strong)], "minimize")[0].more_seeds < first.more_seeds  # type: ignore[operator]


def alternating(mean: float, sd: float) -> dict[int, float]:
    """Four values with this mean and standard deviation."""
    step = sd * math.sqrt(3 / 4)
    return {seed: mean + sign * step for seed, sign in enumerate((1, -1, 1, -1))}


def test_a_contender_that_holm_tests_second_needs_as_many_seeds_as_the_first_one() -> None:
    zero = dict.fromkeys(range(4), 0.0)
    first, second = judge_arms([zero, alternating(0.5, 1.0), alternating(0.499, 1.0)], "minimize")
    (alone,) = judge_arms([zero, alternating(0.499, 1.0)], "minimize")
    assert alone.more_seeds is not None
    assert first.more_seeds is not None
    assert first.more_seeds == second.more_seeds > alone.more_seeds


def test_where_no_number_of_seeds_decides_the_first_contender_none_decides_the_second() -> None:
    zero = dict.fromkeys(range(4), 0.0)
    first, second = judge_arms([zero, alternating(0.099, 1.0), alternating(0.0985, 1.0)], "minimize")
    assert (first.more_seeds, second.more_seeds) == (None, None)
    assert judge_arms([zero, alternating(0.0985, 1.0)], "minimize")[0].more_seeds is not None


def test_the_number_of_seeds_decides_if_mean_and_spread_stay() -> None:
    undecided = judge_shifts(0.036, 0.110, -0.004)
    for added, verdict in ((15, "undecided"), (16, "worse")):
        n = 3 + added
        assert undecided.difference is not None
        assert undecided.difference_sd is not None
        step = undecided.difference_sd * math.sqrt((n - 1) / (n - n % 2))  # half above and half below the mean
        signs = [1, -1] * (n // 2) + [0] * (n % 2)
        base = dict.fromkeys(range(n), 1.0)
        contender = {seed: 1.0 + undecided.difference + sign * step for seed, sign in enumerate(signs)}
        (result,) = judge_arms([base, contender], "minimize", looks=2)
        assert result.difference_sd == pytest.approx(undecided.difference_sd)
        assert result.verdict == verdict


def test_seeds_that_only_an_added_look_needs_are_none_above_a_thousand() -> None:
    assert judge_shifts(0.100, -0.099, 0.101, -0.101).more_seeds is None


def test_values_of_any_size_give_finite_results() -> None:
    for scale in (1e-300, 1e-9, 1.0, 1e90):
        arms = [{1: 3 * scale, 2: 4 * scale, 3: 7 * scale}, {1: 2 * scale, 2: 5 * scale, 3: 6.5 * scale}]
        (result,) = judge_arms(arms, "minimize")
        assert result.verdict == "undecided"
        assert result.low is None or math.isfinite(result.low)


@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1e-9, 1e9, 1e99])
def test_verdicts_do_not_depend_on_the_unit_of_the_metric(scale: float) -> None:
    base, contender = (1.0, 2.0, 3.0), (0.5, 1.4, 2.55)
    plain, scaled = (
        judge_arms([{seed: value * unit for seed, value in enumerate(arm)} for arm in (base, contender)], "minimize")[0]
        for unit in (1.0, scale)
    )
    assert (scaled.verdict, scaled.p_value) == ("better", pytest.approx(plain.p_value))
