"""Curves: thinning keeps what stands out, and a band has only steps that all runs have."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt_kit.report.curves import Band, band_over, thin

VALUES = st.lists(
    st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.integers(-9, 9)), min_size=1, max_size=300
)


@given(VALUES, st.integers(5, 60))
def test_thinning_keeps_the_ends_the_extremes_and_the_order(values: list[float], most: int) -> None:
    xs = list(range(0, 7 * len(values), 7))
    found_xs, found_ys = thin(xs, values, most)
    assert len(found_xs) == len(found_ys) <= most
    assert found_xs == sorted(set(found_xs))
    assert found_xs[0] == xs[0]
    assert found_xs[-1] == xs[-1]
    assert all(
        y == values[x // 7] or (math.isnan(y) and not math.isfinite(values[x // 7]))
        for x, y in zip(found_xs, found_ys, strict=True)
    )
    finite = [value for value in values if math.isfinite(value)]
    if finite:
        kept = [y for y in found_ys if not math.isnan(y)]
        assert (min(kept), max(kept)) == (min(finite), max(finite))
    assert any(map(math.isnan, found_ys)) == (len(finite) < len(values)), "a gap stays a gap"


def test_every_spike_of_a_long_curve_is_kept() -> None:
    xs = list(range(10_000))
    ys = [5 - x / 3_000 for x in xs]
    spikes = {1_234: 9.0, 5_678: -3.0, 9_998: 8.0}
    for at, value in spikes.items():
        ys[at] = value
    found = dict(zip(*thin(xs, ys, 200), strict=True))
    assert {at: found.get(at) for at in spikes} == spikes


@pytest.mark.parametrize("lost", [math.nan, math.inf, -math.inf])
def test_a_single_value_that_is_not_finite_stays_a_gap(lost: float) -> None:
    ys = [float(x % 7) for x in range(5_000)]
    ys[3_210] = lost
    xs, values = thin(range(5_000), ys, 100)
    assert [x for x, y in zip(xs, values, strict=True) if math.isnan(y)] == [3_210]


def test_a_long_gap_is_one_point_a_bucket() -> None:
    xs, values = thin(range(5_000), [1.0, *[math.nan] * 4_998, 2.0], 100)
    assert len(xs) == 34
    assert (values[0], values[-1]) == (1.0, 2.0)


def test_short_curves_are_kept_whole() -> None:
    assert thin([3, 1_000, 2_000_000], [1.5, math.inf, 2], 5)[0] == [3, 1_000, 2_000_000]
    assert thin([], [], 5) == ([], [])


def test_600_000_points_are_thinned_at_once() -> None:
    ys = np.random.default_rng(0).normal(size=600_000)
    xs = np.arange(600_000)
    seconds = []
    for _ in range(3):
        began = time.process_time()
        assert len(thin(xs, ys, 2_000)[0]) == 2_000  # type: ignore[arg-type]
        seconds.append(time.process_time() - began)
    assert min(seconds) < 0.1


def test_a_band_has_the_mean_and_the_range_of_runs() -> None:
    band = band_over([([1, 2, 3], [4.0, 2.0, 1.0]), ([1, 2, 3], [6.0, 3.0, 1.0]), ([1, 2, 3], [8.0, 7.0, 1.0])])
    assert band == Band([1, 2, 3], [6.0, 4.0, 1.0], [4.0, 2.0, 1.0], [8.0, 7.0, 1.0])


def test_a_band_has_the_steps_that_all_runs_have_and_ends_with_the_first_run_that_ends() -> None:
    every_10, every_15 = ([10, 20, 30, 40, 60], [1.0] * 5), ([15, 30, 45, 60], [3.0] * 4)
    early = ([10, 15, 30], [2.0] * 3)
    assert band_over([every_10, every_15]).xs == [30, 60]
    assert band_over([every_10, every_15, early]).xs == [30]
    assert band_over([every_10, ([11, 12], [1.0, 2.0])]).xs == []
    assert band_over([]) == Band([], [], [], [])


def test_a_loss_that_is_not_finite_in_one_run_is_a_gap_of_the_band() -> None:
    band = band_over([([1, 2, 3], [1.0, math.nan, 2.0]), ([1, 2, 3], [1.0, 1.0, math.inf])])
    for values in (band.mean, band.low, band.high):
        assert list(map(math.isnan, values)) == [False, True, True]


def test_of_a_step_that_a_resumed_run_has_twice_the_last_value_counts() -> None:
    band = band_over([([1, 2, 3, 2, 3], [1.0, 9.0, 9.0, 2.0, 3.0])])
    assert (band.xs, band.mean) == ([1, 2, 3], [1.0, 2.0, 3.0])
