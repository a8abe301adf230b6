"""The figures of a sweep's report: labels, ranges, ticks, colours of branches, dots of seeds."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial

from nanogpt_kit.sweep.report import findings
from nanogpt_kit.sweep.report.seed_figures import draw_confirmation
from nanogpt_kit.sweep.space.parameters import Parameter
from tests.sweep.planted_study import (
    LR,
    PLACE,
    figures_of,
    one_trial,
    page_of,
    rates,
    realistic,
    shown,
    sweep_of,
)

Figures = dict[str, list[tuple[list[dict[str, Any]], dict[str, Any]]]]
pytest.importorskip("plotly")
from nanogpt_kit.report import plots
from nanogpt_kit.sweep.report import axes, figures, slices

TWO = (LR, Parameter("model.n_layer", (), PLACE, "int", 2, 12, name="model.n_layer"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two optimizers with enough trials of each."""
    return page_of(*realistic(60), tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def drawn(page: str) -> Figures:
    return figures_of(page)


def test_parameters_whose_long_names_begin_alike_have_labels_of_their_own(drawn: Figures) -> None:
    bars = drawn["Which parameters matter"][0][0][0]["y"]
    panels = [layout["xaxis"]["title"]["text"] for _, layout in drawn["Each parameter separately"]]
    axes = [axis["label"] for axis in drawn["All parameters together"][0][0][0]["dimensions"]]
    for labels in (bars, panels, axes):
        assert len({*labels}) == len(labels)
        assert {"optimizer.lr (adamw)", "optimizer.lr (muon)"} <= {*labels}


def test_choices_that_are_long_and_begin_alike_have_ticks_of_their_own(tmp_path: Path) -> None:
    choices = tuple(f"a_rather_long_name_{end}" for end in ("of_one", "of_two"))
    space = [Parameter("model.norm", (), PLACE, "choice", choices=choices, name="model.norm")]
    trials = [one_trial(at, {"model.norm": choices[at % 2]}, 3.0 + at, space=space) for at in range(4)]
    ((_, layout),) = figures_of(page_of(*sweep_of(trials, space=space), tmp_path))["Each parameter separately"]
    assert len({*layout["xaxis"]["ticktext"]}) == 2


def test_figures_beside_each_other_have_one_range_of_values(drawn: Figures) -> None:
    for section in ("Each parameter separately", "Value and cost"):
        ranges = [layout["yaxis"]["range"] for _, layout in drawn[section]]
        assert len(ranges) > 1
        assert all(one == ranges[0] for one in ranges)


@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_trials_are_whole_numbers_at_their_ticks(count: int, tmp_path: Path) -> None:
    summary, study = sweep_of(rates([3.0 - 0.01 * at for at in range(count)]))
    page = page_of(summary, study, tmp_path)
    ((_, layout),) = figures_of(page)["History"]
    assert layout["xaxis"]["tickvals"] == {1: [0], 2: [0, 1], 3: [0, 1, 2], 40: [0, 10, 20, 30]}[count]
    axis = figures.draw_outcomes(summary).layout.xaxis
    assert list(axis.tickvals) == {1: [0, 1], 2: [0, 1, 2], 3: [0, 1, 2, 3], 40: [0, 10, 20, 30, 40]}[count]
    assert "How trials ended" not in figures_of(page), "all of them are complete, as the headline says"
    assert "Curves" not in figures_of(page), "no trial was evaluated before its end"


def test_all_parallel_axes_have_ticks_at_their_ends(drawn: Figures, page: str) -> None:
    axes = drawn["All parameters together"][0][0][0]["dimensions"]
    best = min(axes[-1]["values"])
    assert axes[-1]["tickvals"][0] == pytest.approx(best), "of the metric, the best value"
    rate = next(axis for axis in axes if axis["label"] == "optimizer.lr (muon)")
    assert rate["ticktext"][:2] == ["does not apply", "0.003"]
    assert rate["ticktext"][-1] == "0.1"
    for axis in axes:
        assert axis["tickvals"][0] == pytest.approx(axis["range"][0])
        assert axis["tickvals"][-1] == pytest.approx(axis["range"][1])


def test_dots_and_parallel_lines_have_the_colours_of_their_branches(drawn: Figures) -> None:
    color = {"adamw": plots.series_color(0), "muon": plots.series_color(1)}
    panels = {layout["xaxis"]["title"]["text"]: data for data, layout in drawn["Each parameter separately"]}
    for name in color:
        assert panels[f"optimizer.lr ({name})"][0]["marker"]["color"] == color[name]
    ((traces, _),) = drawn["All parameters together"]
    line, (uses, *_) = traces[0]["line"], traces[0]["dimensions"]
    third = [int(3 * place) for place in line["color"]]
    assert third == [uses["ticktext"].index("muon") == use for use in uses["values"]]
    assert [stop for _, stop in line["colorscale"]][::3] == [color["adamw"], color["muon"], plots.FAINT]


def test_only_the_best_parallel_line_is_orange_where_there_are_no_branches() -> None:
    trials = [
        one_trial(at, {"optimizer.lr": 1e-3 * (at + 1), "model.n_layer": at + 2}, 3.0 + 0.001 * at, space=TWO)
        for at in range(6)
    ]
    summary, study = sweep_of(trials, space=TWO)
    figure = slices.draw_parallel_coordinates(summary, findings.parameter_ranges(study))
    assert figure is not None
    scale = figure.data[0].line
    assert [color for _, color in scale.colorscale][:2] == [plots.BEST] * 2
    assert [place <= scale.colorscale[1][0] for place in scale.color] == [False] * 5 + [True]


def test_whole_numbers_have_round_ticks() -> None:
    assert axes.axis_ticks(IntDistribution(1, 20))[0] == [5, 10, 15, 20]
    assert axes.axis_ticks(IntDistribution(2, 4))[0] == [2, 3, 4]
    assert axes.axis_ticks(IntDistribution(1, 21, step=10))[0] == [1, 11, 21]


def test_importances_beside_each_other_have_one_axis_with_its_name(drawn: Figures) -> None:
    layouts = [layout for _, layout in drawn["Which parameters matter"]]
    assert len(layouts) > 1
    assert {layout["xaxis"]["title"]["text"] for layout in layouts} == {"importance"}
    assert len({tuple(layout["xaxis"]["range"]) for layout in layouts}) == 1
    assert {(layout["title"]["yref"], layout["title"]["y"]) for layout in layouts} == {("container", 1)}


def test_curves_have_the_colours_of_their_branches(drawn: Figures) -> None:
    summary, _ = realistic(60)
    colors: dict[str, set[str]] = {"adamw": set(), "muon": set()}
    for trace in drawn["Curves"][0][0]:
        if "no result" not in trace["name"]:
            for index in {one for one in trace["customdata"] if one is not None}:
                colors[summary.trials[index].config["optimizer.use"]].add(trace["line"]["color"])
    assert len(colors["adamw"]) == len(colors["muon"]) == 1
    assert colors["adamw"] != colors["muon"]


def test_a_single_evaluation_lies_on_an_axis_of_tokens_from_zero(tmp_path: Path) -> None:
    trials = rates([3.0, 3.1], reports={61_440: 3.0})
    ((data, layout),) = figures_of(page_of(*sweep_of(trials, trial_tokens=61_440), tmp_path))["Curves"]
    low, high = layout["xaxis"]["range"]
    most = max(x for trace in data for x in trace["x"] if x is not None)
    assert low == 0
    assert most < high < 1.1 * most


def at_times(trials: list[FrozenTrial], starts: list[float], seconds: float) -> list[FrozenTrial]:
    begin = datetime(2026, 1, 1)
    for trial, start in zip(trials, starts, strict=True):
        trial.datetime_start = begin + timedelta(seconds=start)
        trial.datetime_complete = begin + timedelta(seconds=start + seconds)
    return trials


@pytest.mark.parametrize(("starts", "is_told"), [([0, 10, 20], False), ([0, 9, 20], True)])
def test_seconds_of_trials_that_ran_beside_others_are_told_only_where_that_is_so(
    starts: list[float], is_told: bool, tmp_path: Path
) -> None:
    configs = [{"optimizer.lr": 1e-3 * (at + 1)} for at in range(3)]
    trials = [one_trial(at, config, 3.0 + at, seconds=10.0 + at) for at, config in enumerate(configs)]
    words = shown(page_of(*sweep_of(at_times(trials, starts, 10)), tmp_path))
    assert "Value and cost" in words
    assert ("ran at the same time as others" in words) == is_told
    assert "while others were running" not in words


def test_what_a_trial_lacks_is_a_parameter_that_does_not_apply(page: str) -> None:
    assert "absent" not in shown(page)
    assert "not there" not in shown(page)
    assert '"absent"' not in page[page.index("Plotly.newPlot") :]


def test_trials_outside_of_a_branch_pass_below_its_axis() -> None:
    pytest.importorskip("plotly")
    from nanogpt_kit.sweep.report import slices

    summary, study = realistic()
    ranges = findings.parameter_ranges(study)
    figure = slices.draw_parallel_coordinates(summary, ranges)
    assert figure is not None
    axis = next(one for one in figure.data[0].dimensions if one.label == "optimizer.lr (muon)")
    assert axis.ticktext[0] == "does not apply"
    complete = summary.ranked_trials()[::-1]
    assert [value == axis.tickvals[0] for value in axis["values"]] == [
        row.config["optimizer.use"] == "adamw" for row in complete
    ]
    (panel,) = (
        figure for figure in slices.draw_slices(summary, ranges) if figure.layout.xaxis.title.text == axis.label
    )
    assert len(panel.data[0].x) == sum(row.config["optimizer.use"] == "muon" for row in complete)
    assert panel.layout.xaxis.type == "log"


def test_curves_are_thinned_where_there_are_many_and_the_page_says_so(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    from nanogpt_kit.sweep.report import trial_curves

    summary, study = realistic(250, 100)
    drawn = sum(len(trace.x) for trace in trial_curves.draw_trial_curves(summary).data)
    assert drawn < 1.02 * trial_curves.MAX_CURVE_POINTS
    words = shown(page_of(summary, study, tmp_path))
    assert "The curves of 120 trials are drawn, evenly spread, and that of the best." in words
    summary, study = realistic(250, 200)
    assert f"At most {trial_curves.max_curve_points(summary)} evaluations of each" in shown(
        page_of(summary, study, tmp_path)
    )


def test_every_seed_of_a_trial_is_a_dot_and_its_mean_a_diamond(tmp_path: Path) -> None:
    values = (3.0, 3.2, 3.1), (2.9, 3.3, 2.8)
    trials = [
        one_trial(at, {"optimizer.lr": 1e-3 * (at + 1)}, sum(seeds) / 3, values=seeds)
        for at, seeds in enumerate(values)
    ]
    ((data, _),) = figures_of(page_of(*sweep_of(trials, seeds=3), tmp_path))["History"]
    dots = next(trace for trace in data if "seeds" in trace["name"])
    assert sorted(zip(dots["x"], dots["y"], strict=True)) == [(at, y) for at in (0, 1) for y in sorted(values[at])]
    means = next(trace for trace in data if trace["marker"].get("symbol") == "diamond")
    assert means["y"] == pytest.approx([3.1, 3.0])


def test_every_fresh_seed_is_a_dot_and_rows_have_names_of_their_own() -> None:
    summary, _ = realistic(60)
    rows: dict[str, list[float]] = {}
    for trace in draw_confirmation(summary).data:
        if trace.marker.symbol is None:
            rows[trace.y[0]] = list(trace.x)
    assert [sorted(values) for values in rows.values()] == [
        pytest.approx(sorted(trial.values), rel=1e-5) for trial in summary.confirmed
    ]
    assert {name.partition(" (")[0] for name in rows} == {f"trial {trial.index}" for trial in summary.confirmed}
    assert all(name.endswith(("(adamw)", "(muon)")) for name in rows)
