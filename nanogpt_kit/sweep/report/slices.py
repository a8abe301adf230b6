"""The figures of a sweep's report about its parameters: each separately, and all together. Needs plotly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]
from optuna.distributions import BaseDistribution, CategoricalDistribution

from nanogpt_kit.report.labels import short_labels
from nanogpt_kit.report.page import format_number
from nanogpt_kit.report.plots import (
    BEST,
    EARLY_TO_LATE,
    FAINT,
    PLAIN,
    empty_figure,
    evenly_spaced,
    linear_ticks,
    plotly_label,
    range_without_outliers,
    round_for_plot,
    series_color,
)
from nanogpt_kit.sweep.report.axes import axis_ends, axis_position, axis_ticks, is_log, ticks_with_ends
from nanogpt_kit.sweep.report.findings import Ranges, trial_value
from nanogpt_kit.sweep.report.markers import MAX_TRIALS, limit_values, mark_best, mark_incomparable, mark_trials
from nanogpt_kit.sweep.report.series import index_of_branch, series_of
from nanogpt_kit.sweep.study.summary import SweepSummary, TrialSummary

OUTSIDE_GAP = 0.15  # of a range, below it: where lines of trials pass to which the parameter does not apply
OUTSIDE = "does not apply"  # at the tick there
EARLY_OPACITY = 0.35  # of the first trial, where colours are those of branches
BRANCH_SHADES = 0.5  # of the way from the colour of a branch to grey, for the line of its worst trial


def draw_slices(summary: SweepSummary, ranges: Ranges) -> list[go.Figure]:
    """The value against each parameter, of the trials that have it; all figures have the same range of values."""
    names = parameters_of(summary.complete_trials(), ranges)
    labels = short_labels(list(ranges))
    return [draw_slice(summary, name, labels[name], ranges[name]) for name in names]


def parameters_of(trials: Sequence[TrialSummary], ranges: Ranges) -> list[str]:
    """The parameters that some of the trials have."""
    having = {name for trial in trials for name in trial.params}
    return [name for name in ranges if name in having]


def draw_slice(summary: SweepSummary, name: str, label: str, distribution: BaseDistribution) -> go.Figure:
    def x_of(trial: TrialSummary) -> float | None:
        if name not in trial.params:
            return None
        # Trials with the same choice are spread a little, so that equal values are visible
        aside = (trial.index * 0.618 % 1 - 0.5) * 0.3 if isinstance(distribution, CategoricalDistribution) else 0.0
        return axis_position(trial.params[name], distribution) + aside

    trials = [trial for trial in summary.complete_trials() if name in trial.params]
    figure = empty_figure(270, label, summary.options.metric)
    figure.update_layout(showlegend=False, margin={"l": 56, "r": 14, "t": 12})
    drawn = evenly_spaced(trials, MAX_TRIALS)
    last = max(1, drawn[-1].index)
    for series in series_of(summary, drawn):
        marker: dict[str, Any] = {"size": 7, "color": [trial.index for trial in series.trials]}
        if series.name:
            late = [round(EARLY_OPACITY + (1 - EARLY_OPACITY) * trial.index / last, 2) for trial in series.trials]
            marker |= {"color": series.color, "symbol": series.symbol, "opacity": late}
        else:
            marker |= {"colorscale": EARLY_TO_LATE}
        mark_trials(figure, series.trials, series.name or "complete", marker, x_of)
    mark_incomparable(figure, summary, x_of)
    mark_best(figure, summary, x_of)
    at, words = axis_ticks(distribution)
    low, high = axis_ends(distribution)
    air = 0.6 if isinstance(distribution, CategoricalDistribution) else 0.05 * (high - low)
    kind = "log" if is_log(distribution) else "linear"
    figure.update_xaxes(type=kind, range=[low - air, high + air], tickvals=at, ticktext=words, tickangle=0)
    limit_values(figure, summary)
    return figure


def draw_parallel_coordinates(summary: SweepSummary, ranges: Ranges) -> go.Figure | None:
    """One line for each complete trial through all its values; below the axis of a parameter that it lacks."""
    trials = evenly_spaced(summary.ranked_trials(), MAX_TRIALS)[::-1]  # the best are drawn last
    if len(trials) < 2:
        return None
    labels = short_labels(list(ranges))
    dimensions = [parallel_axis(trials, name, labels[name], ranges[name]) for name in parameters_of(trials, ranges)]
    values = [trial_value(trial) for trial in trials]
    low, high = range_without_outliers(values, summary.sign) or [min(values), max(values)]
    if low == high:
        low, high = low - 0.5, high + 0.5
    clipped = [round_for_plot(min(max(value, low), high)) for value in values]
    dimensions.append(value_axis(summary.options.metric, clipped, low, high))
    costs = [(value - low if summary.sign > 0 else high - value) / (high - low) for value in clipped]
    figure = empty_figure(460, "", "")
    line = parallel_line(summary, trials, costs)
    figure.add_parcoords(
        line=line, dimensions=dimensions, labelangle=-18, labelfont={"size": 12}, tickfont={"size": 12}
    )
    figure.update_layout(margin={"l": 70, "r": 60, "t": 100, "b": 24})
    return figure


def parallel_line(summary: SweepSummary, trials: Sequence[TrialSummary], costs: Sequence[float]) -> dict[str, Any]:
    """The colour of each line; `costs` are 0 for the best value and 1 for the worst.

    With branches each has its colour, greyer where the value is worse. Without, only the best trial has BEST.
    """
    best = summary.best()
    scale: list[tuple[float, str]] = []
    places: list[float] = []
    if len(summary.branches) < 2:
        scale = [(0, BEST), (0.1, BEST), (0.1, PLAIN), (1, FAINT)]
        places = [0.0 if trial == best else 0.11 + 0.89 * cost for trial, cost in zip(trials, costs, strict=True)]
    else:
        count = len(summary.branches) + 1  # the last are trials without a branch
        for at in range(count):
            color = series_color(at) if at < count - 1 else FAINT
            scale += [(at / count, color), ((at + 0.1) / count, color), ((at + 1) / count, FAINT)]
        for trial, cost in zip(trials, costs, strict=True):
            branch = index_of_branch(summary, trial)
            places.append(((count - 1 if branch is None else branch) + 0.1 + BRANCH_SHADES * cost) / count)
    return {"color": [round(place, 4) for place in places], "colorscale": scale, "cmin": 0, "cmax": 1}


def value_axis(metric: str, values: Sequence[float], low: float, high: float) -> dict[str, Any]:
    """The axis of the metric, whose ticks include the best value and the worst."""
    at = ticks_with_ends(linear_ticks(low, high), low, high)
    texts = [format_number(value) for value in at]
    return {"label": plotly_label(metric), "values": values, "range": [low, high], "tickvals": at, "ticktext": texts}


def parallel_axis(
    trials: Sequence[TrialSummary], name: str, label: str, distribution: BaseDistribution
) -> dict[str, Any]:
    low, high = axis_ends(distribution)
    scaled: Callable[[float], float] = math.log10 if is_log(distribution) else float
    at, texts = parallel_ticks(distribution)
    placed = [
        scaled(axis_position(trial.params[name], distribution)) if name in trial.params else None for trial in trials
    ]
    if None in placed:
        low = round_for_plot(
            low - (0.7 if isinstance(distribution, CategoricalDistribution) else OUTSIDE_GAP * (high - low))
        )
        at, texts = [low, *at], [OUTSIDE, *texts]
    values = [round_for_plot(low if value is None else value) for value in placed]
    return {"label": plotly_label(label), "values": values, "range": [low, high], "tickvals": at, "ticktext": texts}


def parallel_ticks(distribution: BaseDistribution) -> tuple[list[float], list[str]]:
    """Ticks in the scale of the axis, and their texts; those of a range include its ends."""
    at, texts = axis_ticks(distribution)
    if isinstance(distribution, CategoricalDistribution) or distribution.single():
        return at, texts
    if not is_log(distribution):
        at = ticks_with_ends(at, *axis_ends(distribution))
        return at, [format_number(round_for_plot(value)) for value in at]
    at = ticks_with_ends([math.log10(value) for value in at], *axis_ends(distribution))
    return at, [format_number(round_for_plot(10**exponent)) for exponent in at]
