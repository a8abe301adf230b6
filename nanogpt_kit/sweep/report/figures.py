"""The figures of a sweep's report about its trials as a whole. Needs plotly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go  # type: ignore[import-untyped]

from nanogpt_kit.report.labels import short_labels
from nanogpt_kit.report.plots import (
    FAINT,
    LOST,
    OPEN,
    PLAIN,
    Point,
    add_lines,
    bar_chart,
    empty_figure,
    log_ticks,
    plotly_label,
)
from nanogpt_kit.sweep.report.axes import set_trial_axis, whole_ticks
from nanogpt_kit.sweep.report.findings import cause_text, outcome_counts, trial_value
from nanogpt_kit.sweep.report.markers import (
    XOf,
    limit_values,
    mark_best,
    mark_complete,
    mark_incomparable,
    trial_index,
)
from nanogpt_kit.sweep.report.series import running_best_color
from nanogpt_kit.sweep.study.summary import SweepSummary, TrialSummary

LOG_RATIO = 10.0  # of the largest to the smallest cost, above which their axis is logarithmic


def draw_history(summary: SweepSummary) -> go.Figure:
    """The value of each trial, with several seeds also that of each seed, and the best value so far."""
    complete = summary.complete_trials()
    figure = empty_figure(380, "trial", summary.options.metric)
    mark_complete(figure, summary, trial_index, with_seeds=True)
    steps = running_best_points(summary, complete, trial_index)
    last = summary.trials[-1].index
    if steps:
        steps.append((last, steps[-1][1]))
        add_lines(figure, [steps], "best so far", {"color": running_best_color(summary), "shape": "hv", "width": 2})
    mark_best(figure, summary, trial_index)
    mark_incomparable(figure, summary, trial_index)
    limit_values(figure, summary, with_seeds=True)
    set_trial_axis(figure, last)
    return figure


def draw_outcomes(summary: SweepSummary) -> go.Figure:
    """The number of trials by outcome."""
    counts = outcome_counts(summary)
    total = sum(counts.values())
    words = [f"{count}  ({count / total:.0%})" for count in counts.values()]
    known = {"complete": PLAIN, "pruned": FAINT, "running": OPEN, "interrupted": OPEN, "waiting": OPEN}
    colors = [known.get(name, LOST) for name in counts]
    figure = bar_chart({cause_text(name): count for name, count in counts.items()}, words, "trials", colors)
    ticks = whole_ticks(max(counts.values()))
    figure.update_xaxes(tickvals=ticks, ticktext=[f"{tick:,}" for tick in ticks])
    return figure


def draw_importances(values: Mapping[str, float], title: str, most: float) -> go.Figure:
    """One bar for each parameter, the longest first; `most` is the importance at the end of the axis."""
    labels = short_labels(list(values))
    named = {labels[name]: value for name, value in values.items()}
    figure = bar_chart(named, [f"{value:.2f}" for value in values.values()], "importance")
    at_top = {"x": 0.02, "y": 1, "yref": "container", "yanchor": "top", "pad": {"t": 10}}
    figure.update_layout(title={"text": plotly_label(title, 60), "font": {"size": 13}, **at_top})
    figure.update_layout(margin={"t": 36, "l": 8}, height=figure.layout.height + 28)
    figure.update_xaxes(range=[0, 1.01 * most])
    return figure


def draw_costs(summary: SweepSummary) -> list[go.Figure]:
    """The value against each cost, with the front of the trials that no other beats in both."""
    kinds: dict[str, XOf] = {
        "seconds of training": lambda trial: trial.seconds or None,
        "parameters of the model": lambda trial: trial.parameters or None,
    }
    figures = []
    for title, cost in kinds.items():
        trials = [trial for trial in summary.complete_trials() if cost(trial) is not None]
        values = sorted({cost(trial) or 0.0 for trial in trials})
        if len(values) < 2:
            continue
        figure = empty_figure(330, title, summary.options.metric)
        mark_complete(figure, summary, cost)
        cheapest_first = sorted(trials, key=lambda trial: (cost(trial) or 0.0, summary.sign * trial_value(trial)))
        front = running_best_points(summary, cheapest_first, cost)
        line = {"color": running_best_color(summary), "shape": "hv", "width": 1.8}
        add_lines(figure, [front], "Pareto front", line)
        mark_best(figure, summary, cost)
        if values[-1] > LOG_RATIO * values[0]:
            figure.update_xaxes(type="log", tickvals=log_ticks(values[0], values[-1]), tickformat="~s")
        limit_values(figure, summary)
        figures.append(figure)
    return figures


def running_best_points(summary: SweepSummary, trials: Sequence[TrialSummary], x_of: XOf) -> list[Point]:
    """The trials whose value is better than those of all before."""
    front: list[Point] = []
    for trial in trials:
        if not front or summary.sign * trial_value(trial) < summary.sign * front[-1][1]:
            front.append((x_of(trial) or 0.0, trial_value(trial)))
    return front
