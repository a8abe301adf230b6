"""The spread over seeds, and the smallest effects that can be detected."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from nanogpt_kit.comparison.noise import detectable_shift, measure_noise, sd_interval

# statsmodels 0.15: TTestIndPower and TTestPower, solve_power(nobs, alpha=0.05, power=0.8), in standard deviations
UNPAIRED = {2: 5.653489, 3: 3.070892, 5: 2.024440, 10: 1.324947, 20: 0.909129, 100: 0.398139}
PAIRED = {2: 11.549890, 3: 3.264044, 5: 1.681997, 10: 0.996002, 20: 0.660442, 100: 0.282912}


@pytest.mark.parametrize("n", UNPAIRED)
def test_the_smallest_detectable_effects_are_those_of_statsmodels(n: int) -> None:
    assert detectable_shift(2 * n - 2) * math.sqrt(2 / n) == pytest.approx(UNPAIRED[n], rel=5e-6)
    assert detectable_shift(n - 1) / math.sqrt(n) == pytest.approx(PAIRED[n], rel=2e-5)


@pytest.mark.parametrize("n", [3, 10])
def test_of_simulated_effects_of_that_size_80_percent_are_detected(n: int) -> None:
    random, count = np.random.default_rng(n), 40_000
    base, contender = random.normal(size=(2, count, n))
    shift = detectable_shift(2 * n - 2) * math.sqrt(2 / n)
    assert (stats.ttest_ind(base, contender + shift, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.01)
    shift = detectable_shift(n - 1) / math.sqrt(n)
    assert (stats.ttest_1samp(base + shift, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("n", [2, 3, 12])
def test_the_interval_of_the_spread_has_the_true_one_in_95_percent(n: int) -> None:
    found = np.random.default_rng(n).normal(scale=0.3, size=(20_000, n)).std(axis=1, ddof=1)
    low, high = sd_interval(1.0, n)
    assert ((found * low <= 0.3) & (found * high >= 0.3)).mean() == pytest.approx(0.95, abs=0.006)


def test_noise_of_an_arm_has_an_effect_for_usual_numbers_of_seeds_and_for_the_one_at_hand() -> None:
    noise = measure_noise({7: 3.0, 8: 3.2, 9: 3.4, 5: 3.2})
    assert (noise.seeds, noise.mean, noise.pairs, noise.difference_sd) == ((5, 7, 8, 9), pytest.approx(3.2), 0, None)
    assert noise.sd == pytest.approx(math.sqrt(0.08 / 3))
    assert [effect.seeds for effect in noise.effects] == [3, 4, 5, 10, 20]
    assert noise.effects[2].unpaired == pytest.approx(UNPAIRED[5] * noise.sd, rel=1e-5)
    assert {effect.paired for effect in noise.effects} == {None}
    assert noise.reason == ""


def test_a_contender_gives_the_paired_effects_too() -> None:
    base = {1: 3.0, 2: 3.5, 3: 2.5, 4: 2.0, 5: math.nan}
    noise = measure_noise(base, {1: 3.1, 2: 3.62, 3: 2.6, 9: 1.0, 4: math.nan, 5: 2.0})
    assert noise.pairs == 3
    assert noise.difference_sd == pytest.approx(0.011547, rel=1e-4)
    assert [effect.seeds for effect in noise.effects] == [3, 4, 5, 10, 20]
    assert noise.effects[0].paired == pytest.approx(PAIRED[3] * 0.011547, rel=1e-4)


def test_what_too_few_values_leave_open_is_not_guessed() -> None:
    for values in ({}, {1: 3.0}, {1: 3.0, 2: math.inf}):
        noise = measure_noise(values)
        assert (noise.sd, noise.sd_low, noise.effects) == (None, None, ())
        assert "fewer than two values" in noise.reason
    noise = measure_noise({1: 3.0, 2: 3.1}, {2: 3.0, 3: 2.9})
    assert (noise.pairs, noise.difference_sd, noise.effects[0].paired) == (1, None, None)
    assert "differences is unknown" in noise.reason


def test_values_without_a_spread_do_not_promise_that_everything_is_detected() -> None:
    noise = measure_noise({1: 3.0, 2: 3.0, 3: 3.0})
    assert (noise.sd, noise.sd_low, noise.sd_high, noise.effects) == (0, None, None, ())
    assert noise.reason == "the value is the same for every seed, so its spread is unknown"
