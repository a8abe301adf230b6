"""Slopes of features over the width of a model, their verdict, and the sentence about it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from nanogpt_kit.bench.width_slopes import Trajectory, headline_of, log_slope, summarize_place
from tests.bench.planted_widths import EVEN, UNEVEN, make_place, make_scaling


def test_a_slope_is_the_power_of_the_width_and_of_scattered_values_the_least_squares_one() -> None:
    widths = (16, 64, 128, 512)
    assert log_slope(widths, [3 * width**0.75 for width in widths]) == pytest.approx(0.75)
    scattered = [0.5, 2.25, 1.5, 7.0]
    assert log_slope(widths, scattered) == pytest.approx(np.polyfit(np.log(widths), np.log(scattered), 1)[0])


def test_there_is_no_slope_where_all_values_are_0_and_an_undefined_one_where_some_are() -> None:
    assert log_slope((16, 64), (0.0, 0.0)) is None
    for broken in (0.0, math.nan, math.inf):
        assert math.isnan(log_slope((16, 64, 128), (1.0, broken, 1.0)) or 0)


@pytest.mark.parametrize(
    ("name", "change", "start", "verdict"),
    [
        ("h.0", 0.09, 0.09, "even"),
        ("h.0", -0.09, -2.0, "even"),  # features may begin smaller in wide models
        ("h.0", 0.11, 0.0, "grows"),
        ("h.0", -0.11, 0.0, "shrinks"),
        ("h.0", 0.0, 0.11, "grows"),
        ("h.0", -0.2, 0.15, "shrinks"),  # the larger of two faults
        ("h.0", -0.2, 0.25, "grows"),
        ("logits", -0.4, -0.5, "may shrink"),  # as in muP, by design
        ("logits", 0.11, -0.5, "grows"),
        ("loss", -0.4, 0.0, "shrinks"),
    ],
)
def test_the_change_must_be_even_and_the_start_must_not_grow(
    name: str, change: float, start: float, verdict: str
) -> None:
    place = make_place(name, change, start)
    assert place.change_slopes == pytest.approx((change,) * 3)
    assert place.verdict == verdict
    assert make_scaling(place).is_within == (verdict in ("even", "may shrink"))


def test_a_place_that_training_does_not_change_fails() -> None:
    place = replace(make_place("h.1.mlp", 0.0), changes=((0.0,) * 4,) * 3)
    assert (place.verdict, place.change_slope) == ("constant", None)
    assert "h.1.mlp is not changed by training" in headline_of(make_scaling(place))


def test_layers_that_begin_at_0_have_no_slope_there_and_may_be_even() -> None:
    place = replace(make_place("h.1.mlp", 0.0), sizes=((0.0,) * 4,) * 3)
    assert (place.verdict, place.start_slope) == ("even", None)


def test_means_over_seeds_are_geometric_and_a_diverged_seed_makes_them_undefined() -> None:
    seeds = [Trajectory({"h.0": [2.0, 4.0]}, {"h.0": [0.0, 1.0]}), Trajectory({"h.0": [8.0, 4.0]}, {"h.0": [0.0, 9.0]})]
    short = [Trajectory({"h.0": [2.0]}, {"h.0": [0.0]}, "the loss is nan"), seeds[1]]
    place = summarize_place("h.0", (16, 64), [seeds, short], steps=1)
    assert place.sizes[0] == pytest.approx((4.0, 4.0))
    assert place.changes[0] == pytest.approx((0.0, 3.0))
    assert place.sizes[1][0] == pytest.approx(4.0)
    assert math.isnan(place.sizes[1][1])
    assert place.verdict == "not finite"


def test_the_headline_names_the_worst_place_and_the_remedy() -> None:
    text = headline_of(UNEVEN)
    assert "in 2 of 3 places: from width 16 to 128, h.0.attn grows with slope +1.25" in text
    assert "`init.use=mup init.base_width=48`" in text
    adapted = headline_of(replace(UNEVEN, has_base_width=True))
    assert "init.use" not in adapted
    assert adapted.endswith("the first of them, input")


def test_the_headline_of_even_features_has_their_largest_slope() -> None:
    assert headline_of(EVEN).startswith(
        "training changes features alike from width 16 to 128: the largest slope, logits apart, is 0.06, that of"
    )
    others = tuple(place for place in EVEN.places if place.verdict == "even")
    assert len(others) < len(EVEN.places)
    assert "the largest slope is 0.06, that of" in headline_of(replace(EVEN, places=others))


def test_the_headline_names_the_width_that_diverged() -> None:
    text = headline_of(replace(UNEVEN, diverged={64: "the loss is nan at step 2"}))
    assert text == "training failed at width 64: the loss is nan at step 2"


def test_features_that_are_not_finite_are_a_reason_though_the_training_continues() -> None:
    trajectory = Trajectory()
    for change in (0.0, 0.5, math.nan, math.nan):
        trajectory.append("h.0", 1.0, change)
    assert trajectory.diverged == "features at h.0 are not finite after step 2"
