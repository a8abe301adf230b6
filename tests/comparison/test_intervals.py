"""Intervals, levels and Holm's procedure, against scipy and plain references."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, stats

from nanogpt_kit.comparison.intervals import (
    Sample,
    expected_luck,
    expected_maximum,
    holm_alphas,
    look_alpha,
    seeds_to_decide,
)
from nanogpt_kit.comparison.judgement import judge_arms


@pytest.mark.parametrize("n", [2, 3, 5, 10, 37])
@pytest.mark.parametrize("alpha", [0.05, 0.0025, 1e-6])
def test_the_t_interval_and_its_p_value_are_those_of_scipy(n: int, alpha: float) -> None:
    base, contender = np.random.default_rng(n).normal(size=(2, n))
    expected = stats.ttest_rel(contender, base)
    sample = Sample.of((contender - base).tolist())
    assert sample.p_value() == pytest.approx(expected.pvalue, rel=1e-9)
    assert sample.interval(alpha) == pytest.approx(tuple(expected.confidence_interval(1 - alpha)), rel=1e-9)


def test_the_first_look_has_95_percent_and_all_later_ones_together_use_half_a_percent() -> None:
    assert look_alpha(1) == 0.05
    assert [look_alpha(look) for look in (2, 3, 4)] == [0.0025, 0.00125, 0.000625]
    assert sum(look_alpha(look) for look in range(2, 3000)) == pytest.approx(0.005, abs=1e-7)
    assert all(math.isfinite(Sample.of([1.0, 2.0]).interval(look_alpha(look))[1]) for look in (50, 10**6))


def reject_by_holm(p_values: list[float], alpha: float) -> set[int]:
    """As Holm (1979) wrote it."""
    rejected: set[int] = set()
    for step, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        if p_values[index] > alpha / (len(p_values) - step):
            break
        rejected.add(index)
    return rejected


def test_holm_rejects_what_the_reference_rejects() -> None:
    random = np.random.default_rng(3)
    for count in [1, 2, 3, 7] * 200:
        p_values = (random.uniform(size=count) ** 4).tolist()
        alphas = holm_alphas(p_values, 0.05)
        rejected = {index for index in range(count) if p_values[index] <= alphas[index]}
        assert rejected == reject_by_holm(p_values, 0.05), p_values
        assert rejected == {i for i, adjusted in enumerate(holm_adjusted(p_values)) if adjusted <= 0.05}


def holm_adjusted(p_values: list[float]) -> list[float]:
    """The adjusted p values: the running maximum of p times the number of hypotheses that are left."""
    order = np.argsort(p_values)
    scaled = [p_values[index] * (len(p_values) - step) for step, index in enumerate(order)]
    adjusted = [0.0] * len(p_values)
    for index, value in zip(order, itertools.accumulate(scaled, max), strict=True):
        adjusted[index] = value
    return adjusted


def test_the_number_of_seeds_that_decides_is_the_smallest_whose_interval_excludes_zero() -> None:
    for n, mean, sd, alpha in [(3, 0.05, 0.06, 0.0025), (5, -1.0, 4.0, 0.05), (2, 1.0, 0.01, 0.05), (10, 0.1, 1, 0.01)]:
        found = seeds_to_decide(Sample(n, mean, sd), alpha)
        assert found is not None
        half = [stats.t.ppf(1 - alpha / 2, size - 1) * sd / math.sqrt(size) for size in range(n + 1, found + 1)]
        assert [abs(mean) > one for one in half] == [False] * (found - n - 1) + [True]


def test_no_number_of_seeds_decides_a_difference_of_zero_or_of_a_hundredth_of_its_spread() -> None:
    assert seeds_to_decide(Sample(3, 0.0, 1.0), 0.05) is None
    assert seeds_to_decide(Sample(3, 0.0, 0.0), 0.05) is None
    assert seeds_to_decide(Sample(3, 0.01, 1.0), 0.05) is None


def test_the_expected_maximum_of_normal_values_is_that_of_numerical_integration() -> None:
    for count in (1, 2, 3, 50, 4000):
        found = integrate.quad(lambda x, k=count: x * k * stats.norm.pdf(x) * stats.norm.cdf(x) ** (k - 1), -12, 12)[0]
        assert expected_maximum(count) == pytest.approx(found, abs=1e-8)
    assert expected_maximum(1) == 0
    assert expected_maximum(50) == pytest.approx(2.25, abs=0.005)


@pytest.mark.parametrize("tries", [1, 2, 7, 50])
def test_the_best_of_equal_contenders_looks_better_by_the_expected_luck(tries: int) -> None:
    random, n = np.random.default_rng(tries), 4
    values = random.normal(size=(20_000, 1 + tries, n)) + random.normal(size=(20_000, 1, n))  # seeds have an effect
    differences = (values[:, 1:] - values[:, :1]).mean(axis=2)
    standard_error = math.sqrt(2 / n)
    assert differences.max(axis=1).mean() == pytest.approx(expected_luck(tries, standard_error), abs=0.02)


def test_the_interval_of_a_comparison_is_that_of_the_paired_test() -> None:
    base, contender = np.random.default_rng(0).normal(size=(2, 6))
    (result,) = judge_arms([dict(enumerate(base.tolist())), dict(enumerate(contender.tolist()))], "minimize")
    expected = stats.ttest_rel(contender, base)
    assert (result.low, result.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert result.p_value == pytest.approx(expected.pvalue)
