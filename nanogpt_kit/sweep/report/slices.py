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
    EARLY_TO_LATE,
    GOOD_TO_BAD,
    empty_figure,
    evenly_spaced,
    linear_ticks,
    plotly_label,
    range_without_outliers,
    round_for_plot,
)
from nanogpt_kit.sweep.report.axes import axis_ends, axis_position, axis_ticks, is_log, ticks_with_ends
from nanogpt_kit.sweep.report.findings import Ranges, trial_value
from nanogpt_kit.sweep.report.markers import MAX_TRIALS, limit_values, mark_best, mark_incomparable, mark_trials
from nanogpt_kit.sweep.study.summary import SweepSummary, TrialSummary

OUTSIDE_GAP = 0.15  # of a range, below it: where lines of trials pass to which the parameter does not apply
OUTSIDE = "does not apply"  # at the tick there


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
    scale = GOOD_TO_BAD if summary.sign > 0 else [(1 - at, color) for at, color in GOOD_TO_BAD[::-1]]
    figure = empty_figure(460, "", "")
    line = {"color": clipped, "colorscale": scale, "cmin": low, "cmax": high}
    figure.add_parcoords(
        line=line, dimensions=dimensions, labelangle=-18, labelfont={"size": 12}, tickfont={"size": 12}
    )
    figure.update_layout(margin={"l": 70, "r": 60, "t": 100, "b": 24})
    return figure


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
