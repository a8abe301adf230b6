"""Tokens saved, on power laws that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nanogpt_kit.comparison.exchange import fit_rate, ratio_interval, tokens_saved

FULL = 8_000_000


def loss(tokens: float, exponent: float = 0.3) -> float:
    return 1.7 + 2.0 * (tokens / FULL) ** -exponent


def power_law(*budgets: int, exponent: float = 0.3, sign: int = 1) -> dict[int, dict[int, float]]:
    """Runs of two seeds whose mean follows the power law."""
    return {
        tokens: {seed: sign * (loss(tokens, exponent) + shift) for seed, shift in ((7, -0.001), (8, 0.001))}
        for tokens in budgets
    }


@pytest.mark.parametrize("saved", [0.05, 0.2, 0.4])
@pytest.mark.parametrize("exponent", [0.1, 0.3])
@pytest.mark.parametrize("base_is_better", [False, True])
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_fraction_is_that_of_the_power_law_or_somewhat_less(
    saved: float, exponent: float, base_is_better: bool, direction: str
) -> None:
    sign = 1 if direction == "minimize" else -1
    gain = loss(FULL * (1 - saved), exponent) - loss(FULL, exponent)
    difference = sign * gain * (1 if base_is_better else -1)
    runs = power_law(FULL // 2, FULL, exponent=exponent, sign=sign)
    found = tokens_saved(runs, (difference, difference - 1e-6, difference + 1e-6), direction)
    assert found.fraction is not None
    assert saved * 0.85 <= found.fraction <= saved + 1e-9
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.fraction < found.high
    assert found.limit == pytest.approx(0.5)


def test_on_a_line_in_the_logarithm_of_tokens_the_fraction_is_exact_and_so_is_the_price_of_half_the_tokens() -> None:
    runs = {
        tokens: {seed: 3.0 - 0.1 * math.log(tokens) + shift for seed, shift in ((7, -1e-9), (8, 1e-9))}
        for tokens in (FULL // 4, FULL // 2, FULL)
    }
    gain = 0.1 * math.log(1 / 0.7)
    found = tokens_saved(runs, (-gain, -2 * gain, -gain / 2), "minimize")
    assert found.fraction == pytest.approx(0.3, abs=1e-6)
    assert found.low == pytest.approx(1 - 0.7**0.5, abs=1e-6)
    assert found.high is not None
    assert 1 - 0.7**2 <= found.high < 0.65
    assert found.limit == pytest.approx(0.75)
    assert found.per_halving == pytest.approx(0.1 * math.log(2), abs=1e-6)
    assert found.text() == "30.0% of the tokens, 95% interval 16.3% to 57.3%"


def test_a_wider_level_widens_the_part_of_the_interval_that_comes_from_the_rate() -> None:
    runs = {
        tokens: {seed: 3.0 - 0.1 * math.log(tokens) + shift for seed, shift in enumerate((-0.01, 0.01, 0.0))}
        for tokens in (FULL // 4, FULL)
    }
    effect = (-0.03, -0.04, -0.02)
    usual, wide = (tokens_saved(runs, effect, "minimize", level) for level in (0.95, 0.9975))
    assert usual.fraction == wide.fraction
    assert None not in (usual.low, usual.high, wide.low, wide.high)
    assert wide.low < usual.low < usual.high < wide.high  # type: ignore[operator]
    assert "99.75% interval" in wide.text()


def test_nothing_is_extrapolated_beyond_the_smallest_budget_or_beyond_the_full_one() -> None:
    gain = loss(FULL * 0.6) - loss(FULL)
    found = tokens_saved(power_law(FULL // 2, FULL), (-gain, -3 * gain, gain), "minimize")
    assert (found.low, found.high, found.limit) == (0, found.limit, pytest.approx(0.5))
    assert found.text().endswith("95% interval none to more than 50%")
    found = tokens_saved(power_law(FULL // 2, FULL), (-5 * gain, -6 * gain, -4 * gain), "minimize")
    assert found.text() == "more than 50% of the tokens, 95% interval more than 50% to more than 50%"


def test_without_a_fall_of_the_loss_with_tokens_there_is_no_fraction() -> None:
    for values in ((3.0, 2.9, 2.95, 2.97), (2.0, 2.1, 3.0, 3.1), (3.0, 2.9, 2.97, 2.91)):
        runs = {FULL // 2: {7: values[0], 8: values[1]}, FULL: {7: values[2], 8: values[3]}}
        found = tokens_saved(runs, (-0.1, -0.2, -0.05), "minimize")
        assert (found.fraction, found.limit) == (None, None)
        assert "do not show" in found.reason
        assert found.reason in found.text()


def test_too_few_runs_or_no_difference_give_a_reason() -> None:
    effect = (-0.1, -0.2, -0.05)
    for runs in ({}, {FULL: {7: 3.0, 8: 3.1, 9: 3.2}}, {FULL // 2: {7: 3.1}, FULL: {7: 3.0}}, power_law(FULL)):
        assert "two budgets" in tokens_saved(runs, effect, "minimize").reason
    lost = {FULL // 2: {7: math.nan, 8: math.inf}, FULL: {7: 3.0, 8: 3.1}}
    assert "two budgets" in tokens_saved(lost, effect, "minimize").reason
    for effect in ((None, None, None), (0.0, 0.0, 0.0), (0.1, None, None)):
        assert "no difference" in tokens_saved(power_law(FULL // 2, FULL), effect, "minimize").reason


def test_the_rate_and_its_interval_are_those_of_scipys_regression() -> None:
    from scipy import stats

    random = np.random.default_rng(4)
    x = np.repeat(np.log([1e6, 2e6, 4e6]), 3)
    y = 5 - 0.2 * x + 0.03 * random.normal(size=9)
    expected = stats.linregress(x, y)
    half = stats.t.ppf(0.975, 7) * expected.stderr
    found = fit_rate([*zip(x.tolist(), y.tolist(), strict=True)])
    assert found == pytest.approx((-expected.slope, -expected.slope - half, -expected.slope + half))


@pytest.mark.parametrize("top", [0.0, 0.1, 0.5])
def test_the_interval_of_a_quotient_has_the_true_one_in_95_percent(top: float) -> None:
    random, count, bottom, error, bottom_error = np.random.default_rng(5), 5_000, 1.0, 0.1, 0.15
    covered = 0
    for a, b in zip(
        random.normal(top, error, count).tolist(), random.normal(bottom, bottom_error, count).tolist(), strict=True
    ):
        found = (a, a - 1.96 * error, a + 1.96 * error), (b, b - 1.96 * bottom_error, b + 1.96 * bottom_error)
        _, low, high = ratio_interval(*found)
        covered += low <= top / bottom <= high
    assert 0.94 <= covered / count <= 0.97


def test_simulated_effects_and_runs_give_intervals_that_have_the_true_fraction() -> None:
    random, count, saved, n, rate, noise = np.random.default_rng(6), 2_000, 0.25, 5, 0.15, 0.01
    gain = -rate * math.log(1 - saved)
    covered = 0
    for values in (noise * random.normal(size=(count, 3, n))).tolist():
        difference = -gain + noise * random.normal(size=n)
        mean, half = float(difference.mean()), 2.776 * float(difference.std(ddof=1)) / math.sqrt(n)
        budgets = (FULL // 4, FULL // 2, FULL)
        runs = {
            tokens: {seed: 3 - rate * math.log(tokens / FULL) + shift for seed, shift in enumerate(shifts)}
            for tokens, shifts in zip(budgets, values, strict=True)
        }
        found = tokens_saved(runs, (mean, mean - half, mean + half), "minimize")
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= saved <= found.high
    assert covered / count >= 0.94


@pytest.mark.parametrize("exponent", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("saved", [0.05, 0.2, 0.4])
def test_intervals_have_the_true_fraction_of_a_power_law_also_where_noise_is_small(
    exponent: float, saved: float
) -> None:
    random, count, n = np.random.default_rng(7), 300, 5
    gain = loss(FULL * (1 - saved), exponent) - loss(FULL, exponent)
    noise, covered = 0.1 * gain, 0
    for values in (noise * random.normal(size=(count, 4, n))).tolist():
        difference = np.array(values[3]) - gain
        mean, half = float(difference.mean()), 2.776 * float(difference.std(ddof=1)) / math.sqrt(n)
        runs = {
            tokens: {seed: loss(tokens, exponent) + shift for seed, shift in enumerate(shifts)}
            for tokens, shifts in zip((FULL // 2, FULL * 3 // 4, FULL), values[:3], strict=True)
        }
        found = tokens_saved(runs, (mean, mean - half, mean + half), "minimize")
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= saved <= found.high
    assert covered / count >= 0.92  # of 300
