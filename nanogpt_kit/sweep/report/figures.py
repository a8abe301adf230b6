"""The figures of a sweep's report. Needs plotly."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]
from optuna.distributions import BaseDistribution, CategoricalDistribution

from nanogpt_kit.report.page import format_number
from nanogpt_kit.report.plots import (
    BEST,
    EARLY_TO_LATE,
    FAINT,
    GOOD_TO_BAD,
    LOST,
    OPEN,
    PLAIN,
    Point,
    add_lines,
    bar_chart,
    empty_figure,
    evenly_spaced,
    hide_outliers,
    linear_ticks,
    log_ticks,
    plotly_label,
    range_without_outliers,
    round_for_plot,
)
from nanogpt_kit.sweep.report.axes import axis_ends, axis_position, axis_ticks, is_log
from nanogpt_kit.sweep.report.findings import Ranges, cause_text, outcome_counts, trial_value
from nanogpt_kit.sweep.report.markers import (
    MAX_TRIALS,
    XOf,
    mark_best,
    mark_incomparable,
    mark_trials,
    trial_index,
)
from nanogpt_kit.sweep.study.summary import SweepSummary, TrialSummary

MAX_CURVE_POINTS = 20_000  # of all curves together
LOG_RATIO = 10.0  # of the largest to the smallest cost, above which their axis is logarithmic
ABSENT_GAP = 0.15  # of a range, below it: where lines of trials without the parameter pass in parallel coordinates


def draw_history(summary: SweepSummary) -> go.Figure:
    """The value of each trial, and the best value so far."""
    complete = summary.complete_trials()
    figure = empty_figure(380, "trial", summary.options.metric)
    mark_trials(figure, complete, "complete", {"color": PLAIN, "size": 7}, trial_index)
    steps = running_best_points(summary, complete, trial_index)
    if steps:
        steps.append((summary.trials[-1].index, steps[-1][1]))
        add_lines(figure, [steps], "best so far", {"color": BEST, "shape": "hv", "width": 2})
    mark_best(figure, summary, trial_index)
    mark_incomparable(figure, summary, trial_index)
    hide_outliers(figure, [trial_value(trial) for trial in complete], summary.sign)
    return figure


def draw_curves(summary: SweepSummary) -> go.Figure:
    """The metric of every trial at each of its evaluations."""
    figure = empty_figure(440, "tokens", summary.options.metric)
    best = summary.best()
    trials = [trial for trial in evenly_spaced(summary.trials, MAX_TRIALS) if trial.reports and trial != best]
    groups: dict[str, tuple[str, list[TrialSummary]]] = {
        "no result": (LOST, [trial for trial in trials if trial.has_no_result]),
        "pruned": (FAINT, [trial for trial in trials if trial.is_pruned]),
        "running": (OPEN, [trial for trial in trials if trial.state in ("running", "interrupted")]),
        "complete": (PLAIN, [trial for trial in trials if trial.state == "complete"]),
    }
    most = max_curve_points(summary)
    for name, (color, chosen) in groups.items():
        paths = [evenly_spaced(trial.reports, most) for trial in chosen]
        add_lines(figure, paths, name, {"color": color, "width": 1.3}, [trial.index for trial in chosen], 0.6)
    if best is not None and best.reports:
        path = [evenly_spaced(best.reports, most)]
        add_lines(figure, path, f"best, trial {best.index}", {"color": BEST, "width": 2.6}, [best.index])
    # The first evaluations are high in every run, and trials hardly differ in them
    late = [value for trial in summary.trials for _, value in trial.reports[len(trial.reports) // 4 :]]
    hide_outliers(figure, late, summary.sign)
    return figure


def max_curve_points(summary: SweepSummary) -> int:
    """The number of points drawn of each curve."""
    return max(8, MAX_CURVE_POINTS // max(1, min(MAX_TRIALS, len(summary.trials))))


def draw_outcomes(summary: SweepSummary) -> go.Figure:
    """The number of trials by outcome."""
    counts = outcome_counts(summary)
    total = sum(counts.values())
    words = [f"{count}  ({count / total:.0%})" for count in counts.values()]
    known = {"complete": PLAIN, "pruned": FAINT, "running": OPEN, "interrupted": OPEN, "waiting": OPEN}
    colors = [known.get(name, LOST) for name in counts]
    return bar_chart({cause_text(name): count for name, count in counts.items()}, words, "trials", colors)


def draw_importances(values: Mapping[str, float], title: str) -> go.Figure:
    """One bar for each parameter, the longest first."""
    figure = bar_chart(values, [f"{value:.2f}" for value in values.values()])
    figure.update_layout(title={"text": plotly_label(title, 60), "font": {"size": 13}, "x": 0.02, "y": 0.97})
    figure.update_layout(margin={"t": 36, "l": 8}, height=figure.layout.height + 28)
    return figure


def draw_slices(summary: SweepSummary, ranges: Ranges) -> list[go.Figure]:
    """The value against each parameter, of the trials that have it."""
    names = [name for name in ranges if any_has_param(summary.complete_trials(), name)]
    return [draw_slice(summary, name, ranges[name]) for name in names]


def any_has_param(trials: Sequence[TrialSummary], name: str) -> bool:
    return any(name in trial.params for trial in trials)


def draw_slice(summary: SweepSummary, name: str, distribution: BaseDistribution) -> go.Figure:
    def x_of(trial: TrialSummary) -> float | None:
        if name not in trial.params:
            return None
        # Trials with the same choice are spread a little, so that equal values are visible
        aside = (trial.index * 0.618 % 1 - 0.5) * 0.3 if isinstance(distribution, CategoricalDistribution) else 0.0
        return axis_position(trial.params[name], distribution) + aside

    trials = [trial for trial in summary.complete_trials() if name in trial.params]
    figure = empty_figure(270, name, summary.options.metric)
    figure.update_layout(showlegend=False, margin={"l": 56, "r": 14, "t": 12})
    late = {
        "color": [trial.index for trial in evenly_spaced(trials, MAX_TRIALS)],
        "colorscale": EARLY_TO_LATE,
        "size": 7,
    }
    mark_trials(figure, trials, "complete", late, x_of)
    mark_incomparable(figure, summary, x_of)
    mark_best(figure, summary, x_of)
    at, words = axis_ticks(distribution)
    low, high = axis_ends(distribution)
    air = 0.6 if isinstance(distribution, CategoricalDistribution) else 0.05 * (high - low)
    kind = "log" if is_log(distribution) else "linear"
    figure.update_xaxes(type=kind, range=[low - air, high + air], tickvals=at, ticktext=words, tickangle=0)
    hide_outliers(figure, [trial_value(trial) for trial in trials], summary.sign)
    return figure


def draw_costs(summary: SweepSummary) -> list[go.Figure]:
    """The value against each cost, with the front of the trials that no other beats in both."""
    kinds: dict[str, XOf] = {
        "seconds in steps": lambda trial: trial.seconds or None,
        "parameters of the model": lambda trial: trial.parameters or None,
    }
    figures = []
    for title, cost in kinds.items():
        trials = [trial for trial in summary.complete_trials() if cost(trial) is not None]
        values = sorted({cost(trial) or 0.0 for trial in trials})
        if len(values) < 2:
            continue
        figure = empty_figure(330, title, summary.options.metric)
        mark_trials(figure, trials, "complete", {"color": PLAIN, "size": 7}, cost)
        cheapest_first = sorted(trials, key=lambda trial: (cost(trial) or 0.0, summary.sign * trial_value(trial)))
        front = running_best_points(summary, cheapest_first, cost)
        add_lines(figure, [front], "Pareto front", {"color": BEST, "shape": "hv", "width": 1.8})
        mark_best(figure, summary, cost)
        if values[-1] > LOG_RATIO * values[0]:
            figure.update_xaxes(type="log", tickvals=log_ticks(values[0], values[-1]), tickformat="~s")
        hide_outliers(figure, [trial_value(trial) for trial in trials], summary.sign)
        figures.append(figure)
    return figures


def running_best_points(summary: SweepSummary, trials: Sequence[TrialSummary], x_of: XOf) -> list[Point]:
    """The trials whose value is better than those of all before."""
    front: list[Point] = []
    for trial in trials:
        if not front or summary.sign * trial_value(trial) < summary.sign * front[-1][1]:
            front.append((x_of(trial) or 0.0, trial_value(trial)))
    return front


def draw_parallel_coordinates(summary: SweepSummary, ranges: Ranges) -> go.Figure | None:
    """One line for each complete trial through all its values; below the axis of a parameter that it lacks."""
    trials = evenly_spaced(summary.ranked_trials(), MAX_TRIALS)[::-1]  # the best are drawn last
    if len(trials) < 2:
        return None
    values = [trial_value(trial) for trial in trials]
    low, high = range_without_outliers(values, summary.sign) or [min(values), max(values)]
    if low == high:
        low, high = low - 0.5, high + 0.5
    clipped = [round_for_plot(min(max(value, low), high)) for value in values]
    scale = GOOD_TO_BAD if summary.sign > 0 else [(1 - at, color) for at, color in GOOD_TO_BAD[::-1]]
    dimensions = [parallel_axis(trials, name, ranges[name]) for name in ranges if any_has_param(trials, name)]
    at = linear_ticks(low, high)
    words = {"tickvals": at, "ticktext": [format_number(value) for value in at]}
    dimensions.append({"label": plotly_label(summary.options.metric), "values": clipped, "range": [low, high], **words})
    figure = empty_figure(460, "", "")
    line = {"color": clipped, "colorscale": scale, "cmin": low, "cmax": high}
    figure.add_parcoords(
        line=line, dimensions=dimensions, labelangle=-18, labelfont={"size": 12}, tickfont={"size": 12}
    )
    figure.update_layout(margin={"l": 70, "r": 60, "t": 100, "b": 24})
    return figure


def parallel_axis(trials: Sequence[TrialSummary], name: str, distribution: BaseDistribution) -> dict[str, Any]:
    at, words = axis_ticks(distribution)
    low, high = axis_ends(distribution)
    scaled: Callable[[float], float] = math.log10 if is_log(distribution) else float
    placed = [
        scaled(axis_position(trial.params[name], distribution)) if name in trial.params else None for trial in trials
    ]
    if None in placed:
        low = round_for_plot(
            low - (0.7 if isinstance(distribution, CategoricalDistribution) else ABSENT_GAP * (high - low))
        )
        words = ["absent", *words]
    at = [low] * (None in placed) + [scaled(value) for value in at]
    values = [round_for_plot(low if value is None else value) for value in placed]
    return {"label": plotly_label(name), "values": values, "range": [low, high], "tickvals": at, "ticktext": words}
