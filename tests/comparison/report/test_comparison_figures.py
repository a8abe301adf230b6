"""The figures of a comparison: what is drawn of each contender, seed and arm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from nanogpt_kit.comparison.record import Effect
from tests.comparison.made_records import make_result

pytest.importorskip("plotly")

from nanogpt_kit.comparison.report.figure_sections import curve_groups
from nanogpt_kit.comparison.report.figures import ArmRow, JudgedRow, draw_differences, draw_values, seed_paths
from nanogpt_kit.report.plots import series_color
from nanogpt_kit.report.run_curves import MetricCurve

TITLE = ["difference in val/loss", "(lower is better)"]


def traces(figure: Any) -> dict[str, Any]:
    return {trace.name: trace for trace in figure.data}


def arm_rows(**values: Mapping[int, float]) -> list[ArmRow]:
    return [ArmRow.of(label, of_arm, index) for index, (label, of_arm) in enumerate(values.items())]


def test_each_contender_has_a_dot_for_each_seed_and_a_mean_with_its_interval() -> None:
    lower = make_result(1, -0.25, low=-0.5, high=-0.125, verdict="better")
    rows = [
        JudgedRow("a", lower, {7: -0.375, 8: -0.125}, series_color(1)),
        JudgedRow("b", make_result(2, 0.5, low=-0.5, high=1.5), {7: 0.25, 8: 0.75}, series_color(2)),
    ]
    figure = draw_differences(rows, 4, TITLE)
    found = traces(figure)
    dots = found["a seed"]
    assert (list(dots.x), [seed for seed, _ in dots.customdata]) == ([-0.375, -0.125, 0.25, 0.75], ["7", "8"] * 2)
    assert [round(y) for y in dots.y] == [0, 0, 1, 1]
    better, undecided = found["mean and interval, better"], found["mean and interval, undecided"]
    assert (list(better.x), list(better.y), list(undecided.y)) == ([-0.25], [0], [1])
    assert (list(better.error_x.arrayminus), list(better.error_x.array)) == ([0.25], [0.125])
    assert (list(undecided.error_x.arrayminus), list(undecided.error_x.array)) == ([1.0], [1.0])
    assert [*better.marker.color, *undecided.marker.color] == [series_color(1), series_color(2)], "those of the arms"
    assert list(dots.marker.color) == [series_color(1)] * 2 + [series_color(2)] * 2
    assert (better.marker.symbol, undecided.marker.symbol) == ("diamond", "diamond-open")
    assert list(figure.layout.yaxis.ticktext) == ["a", "b"]
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1], "the first contender is at the top"
    assert figure.layout.xaxis.title.text == "difference in val/loss<br>(lower is better)"
    [zero] = figure.layout.shapes
    assert (zero.x0, zero.x1) == (0, 0)


def test_a_mean_without_an_interval_is_drawn_as_such_and_a_contender_without_a_difference_has_an_empty_row() -> None:
    one_pair = make_result(1, 0.25, low=None, high=None, difference_sd=None)
    nothing = make_result(2, None, low=None, high=None, seeds=())
    found = traces(draw_differences([JudgedRow("a", one_pair, {7: 0.25}), JudgedRow("b", nothing)], 4, TITLE))
    assert list(found) == ["a seed", "mean without an interval, undecided"]
    assert found["mean without an interval, undecided"].marker.symbol == "square-open"


def test_effects_have_no_dots() -> None:
    effect = Effect(factors=("m",), levels=("x",), seeds=(1, 2), difference=0.5, low=0.25, high=0.75, verdict="worse")
    figure = draw_differences([JudgedRow("m=x", effect)], 4, TITLE)
    assert list(traces(figure)) == ["mean and interval, worse"]
    assert figure.layout.showlegend, "of a single entry, too"


def test_dots_of_one_row_stay_in_it_in_the_order_of_the_seeds() -> None:
    many = dict.fromkeys(range(100), 0.0)
    dots = traces(draw_differences([JudgedRow("a", make_result()), JudgedRow("b", make_result(2), many)], 4, TITLE))
    heights = list(dots["a seed"].y)
    assert heights == sorted(heights)
    assert len({*heights}) == 100
    assert 0.5 < heights[0] < heights[-1] < 1.5


def test_values_are_joined_by_seed_and_a_missing_one_interrupts_the_line() -> None:
    rows = arm_rows(base={7: 2.5, 8: 2.75}, a={7: 2.25}, b={7: 2.0, 8: 3.0})
    assert seed_paths(rows) == [[(2.5, 0.0), (2.25, 1.0), (2.0, 2.0)]]
    figure = draw_values(rows, 4, TITLE)
    found = traces(figure)
    assert list(found["the same seed"].x) == [2.5, 2.25, 2.0, None]
    assert list(found["base"].x) == [2.5, 2.75]
    assert [list(one) for one in found["base"].customdata] == [["7", "2.5000"], ["8", "2.7500"]]
    means = {trace.y[0]: trace.x[0] for trace in figure.data if trace.name == "mean"}
    assert means == {0: 2.625, 1: 2.25, 2: 2.5}
    assert len({row.color for row in rows}) == 3


def test_an_arm_has_one_colour_in_all_figures_and_arms_without_a_curve_are_left_out() -> None:
    curve = MetricCurve([1, 2], [1.0, 2.0], [3.0, 2.0])
    groups = curve_groups({0: {7: {"val/loss": curve}}, 2: {7: {}}, 3: {8: {"val/loss": curve}}}, [*"abcd"], "val/loss")
    assert [(group.name, [*group.curves]) for group in groups] == [("a", ["seed 7"]), ("d", ["seed 8"])]
    assert [series_color(group.place) for group in groups] == [ArmRow.of("", {}, arm).color for arm in (0, 3)]


def test_an_arm_without_a_value_has_an_empty_row() -> None:
    figure = draw_values(arm_rows(base={7: 2.5}, a={}), 4, TITLE)
    assert list(figure.layout.yaxis.ticktext) == ["base", "a"]
    assert "a" not in traces(figure)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_values_of_any_size_are_drawn(scale: float) -> None:
    row = JudgedRow("a", make_result(1, 0.5 * scale, low=-scale, high=scale), {7: 0.5 * scale})
    figure = draw_differences([row], 4, TITLE)
    assert all(math.isfinite(x) and x for trace in figure.data for x in trace.x)


@pytest.mark.parametrize("count", [1, 2, 31])
def test_rows_fit_a_printed_page(count: int) -> None:
    rows = [JudgedRow(str(index), make_result()) for index in range(count)]
    assert 150 <= draw_differences(rows, 4, TITLE).layout.height <= 560


def test_labels_are_text_not_markup() -> None:
    figure = draw_differences([JudgedRow("<b>a</b>", make_result())], 4, ["<i>metric", "x"])
    assert list(figure.layout.yaxis.ticktext) == ["&lt;b&gt;a&lt;/b&gt;"]
    assert figure.layout.xaxis.title.text == "&lt;i&gt;metric<br>x"


def test_values_that_differ_in_their_eighth_digit_are_drawn_apart_and_shown_with_the_decimals_of_the_tables() -> None:
    values = {7: 4.8337123, 8: 4.8337151}
    figure = draw_values(arm_rows(base=values, a={7: 4.8337129, 8: 4.8337144}), 7, TITLE)
    found = traces(figure)
    assert (list(found["base"].x), found["base"].customdata[1][1]) == ([*values.values()], "4.8337151")
    assert list(found["the same seed"].x)[:2] == [4.8337123, 4.8337129]
    means = [trace for trace in figure.data if trace.name == "mean"]
    assert "mean 4.8337137<" in means[0].hovertemplate
    row = JudgedRow("a", make_result(1, 1.2345678e-5, low=-1.5e-6, high=2.5e-5), {7: 1.2345671e-5})
    found = traces(draw_differences([row], 8, TITLE))
    assert found["a seed"].customdata[0][1] == "0.00001235"
    assert list(found["mean and interval, undecided"].customdata[0]) == ["a", "0.00001235", "-0.00000150 to 0.00002500"]
