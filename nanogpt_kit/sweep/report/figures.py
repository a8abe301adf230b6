"""The figures of a sweep's report. Needs plotly."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

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
    add_dots,
    add_lines,
    add_strip,
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
from nanogpt_kit.sweep.report.findings import (
    Ranges,
    cause_words,
    complete_of,
    is_lost,
    is_pruned,
    outcomes,
    sign_of,
    value_of,
)
from nanogpt_kit.sweep.study.summary import Row, Summary

CURVE_POINTS = 20_000  # of all curves together
DOTS = 2_000  # trials in a figure
LOG_FROM = 10.0  # ratio of the largest to the smallest from which on an axis of costs is logarithmic
NOT_THERE = 0.15  # of a range below it: where trials without a parameter pass in parallel coordinates
Place = Callable[[Row], float | None]


def history(summary: Summary) -> go.Figure:
    """The value of each trial, and the best so far."""
    complete = complete_of(summary)
    figure = empty_figure(380, "trial", summary.options.metric)
    add_rows(figure, complete, "complete", {"color": PLAIN, "size": 7}, number_of)
    steps = front_of(summary, complete, number_of)
    if steps:
        steps.append((summary.rows[-1].number, steps[-1][1]))
        add_lines(figure, [steps], "best so far", {"color": BEST, "shape": "hv", "width": 2})
    add_best(figure, summary, number_of)
    add_others(figure, summary, number_of)
    hide_outliers(figure, [value_of(row) for row in complete], sign_of(summary))
    return figure


def curves(summary: Summary) -> go.Figure:
    """The metric of every trial at each of its evaluations."""
    figure = empty_figure(440, "tokens", summary.options.metric)
    best = summary.best()
    rows = [row for row in evenly_spaced(summary.rows, DOTS) if row.reports and row != best]
    groups: dict[str, tuple[str, list[Row]]] = {
        "lost": (LOST, [row for row in rows if is_lost(row)]),
        "pruned": (FAINT, [row for row in rows if is_pruned(row)]),
        "at work": (OPEN, [row for row in rows if row.state in ("running", "interrupted")]),
        "complete": (PLAIN, [row for row in rows if row.state == "complete"]),
    }
    most = most_of_a_curve(summary)
    for name, (color, chosen) in groups.items():
        paths = [evenly_spaced(row.reports, most) for row in chosen]
        add_lines(figure, paths, name, {"color": color, "width": 1.3}, [row.number for row in chosen], 0.6)
    if best is not None and best.reports:
        path = [evenly_spaced(best.reports, most)]
        add_lines(figure, path, f"best, trial {best.number}", {"color": BEST, "width": 2.6}, [best.number])
    # The first evaluations are high in every run, and not what trials differ by
    late = [value for row in summary.rows for _, value in row.reports[len(row.reports) // 4 :]]
    hide_outliers(figure, late, sign_of(summary))
    return figure


def most_of_a_curve(summary: Summary) -> int:
    """Points of each that are drawn."""
    return max(8, CURVE_POINTS // max(1, min(DOTS, len(summary.rows))))


def states(summary: Summary) -> go.Figure:
    """How trials ended, and why."""
    found = outcomes(summary)
    total = sum(found.values())
    words = [f"{count}  ({count / total:.0%})" for count in found.values()]
    known = {"complete": PLAIN, "pruned": FAINT, "running": OPEN, "interrupted": OPEN, "waiting": OPEN}
    colors = [known.get(name, LOST) for name in found]
    return bar_chart({cause_words(name): count for name, count in found.items()}, words, "trials", colors)


def importances(shares: Mapping[str, float], title: str) -> go.Figure:
    """One bar a parameter, the longest first."""
    figure = bar_chart(shares, [f"{share:.2f}" for share in shares.values()])
    figure.update_layout(title={"text": plotly_label(title, 60), "font": {"size": 13}, "x": 0.02, "y": 0.97})
    figure.update_layout(margin={"t": 36, "l": 8}, height=figure.layout.height + 28)
    return figure


def slices(summary: Summary, ranges: Ranges) -> list[go.Figure]:
    """The value against each parameter, of the trials that have it."""
    return [slice_of(summary, name, one) for name, one in ranges.items() if any_has(complete_of(summary), name)]


def any_has(rows: Sequence[Row], name: str) -> bool:
    return any(name in row.names for row in rows)


def slice_of(summary: Summary, name: str, one: BaseDistribution) -> go.Figure:
    def place(row: Row) -> float | None:
        if name not in row.names:
            return None
        # Trials with the same choice stand a little beside each other, so that equal values are seen
        aside = (row.number * 0.618 % 1 - 0.5) * 0.3 if isinstance(one, CategoricalDistribution) else 0.0
        return position(row.names[name], one) + aside

    rows = [row for row in complete_of(summary) if name in row.names]
    figure = empty_figure(270, name, summary.options.metric)
    figure.update_layout(showlegend=False, margin={"l": 56, "r": 14, "t": 12})
    late = {"color": [row.number for row in evenly_spaced(rows, DOTS)], "colorscale": EARLY_TO_LATE, "size": 7}
    add_rows(figure, rows, "complete", late, place)
    add_others(figure, summary, place)
    add_best(figure, summary, place)
    at, words = ticks_of(one)
    low, high = ends(one)
    air = 0.6 if isinstance(one, CategoricalDistribution) else 0.05 * (high - low)
    kind = "log" if is_log(one) else "linear"
    figure.update_xaxes(type=kind, range=[low - air, high + air], tickvals=at, ticktext=words, tickangle=0)
    hide_outliers(figure, [value_of(row) for row in rows], sign_of(summary))
    return figure


def costs(summary: Summary) -> list[go.Figure]:
    """The value against what it takes, with the front of those that nothing beats in both."""
    kinds: dict[str, Place] = {
        "seconds in steps": lambda row: row.seconds or None,
        "parameters of the model": lambda row: row.parameters or None,
    }
    figures = []
    for title, cost in kinds.items():
        rows = [row for row in complete_of(summary) if cost(row) is not None]
        found = sorted({cost(row) or 0.0 for row in rows})
        if len(found) < 2:
            continue
        figure = empty_figure(330, title, summary.options.metric)
        add_rows(figure, rows, "complete", {"color": PLAIN, "size": 7}, cost)
        cheapest_first = sorted(rows, key=lambda row: (cost(row) or 0.0, sign_of(summary) * value_of(row)))
        front = front_of(summary, cheapest_first, cost)
        add_lines(figure, [front], "Pareto front", {"color": BEST, "shape": "hv", "width": 1.8})
        add_best(figure, summary, cost)
        if found[-1] > LOG_FROM * found[0]:
            figure.update_xaxes(type="log", tickvals=log_ticks(found[0], found[-1]), tickformat="~s")
        hide_outliers(figure, [value_of(row) for row in rows], sign_of(summary))
        figures.append(figure)
    return figures


def front_of(summary: Summary, rows: Sequence[Row], place: Place) -> list[Point]:
    """Where the value is better than of all before."""
    front: list[Point] = []
    for row in rows:
        if not front or sign_of(summary) * value_of(row) < sign_of(summary) * front[-1][1]:
            front.append((place(row) or 0.0, value_of(row)))
    return front


def parallel(summary: Summary, ranges: Ranges) -> go.Figure | None:
    """One line a complete trial through all of its values; where it has none, below the axis of that parameter."""
    rows = evenly_spaced(summary.best_first(), DOTS)[::-1]  # the best are drawn last
    if len(rows) < 2:
        return None
    values = [value_of(row) for row in rows]
    low, high = range_without_outliers(values, sign_of(summary)) or [min(values), max(values)]
    if low == high:
        low, high = low - 0.5, high + 0.5
    clipped = [round_for_plot(min(max(value, low), high)) for value in values]
    scale = GOOD_TO_BAD if sign_of(summary) > 0 else [(1 - at, color) for at, color in GOOD_TO_BAD[::-1]]
    shown = {name: one for name, one in ranges.items() if any_has(rows, name)}
    dimensions = [dimension(rows, name, one) for name, one in shown.items()]
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


def dimension(rows: Sequence[Row], name: str, one: BaseDistribution) -> dict[str, Any]:
    at, words = ticks_of(one)
    low, high = ends(one)
    scaled: Callable[[float], float] = math.log10 if is_log(one) else float
    placed = [scaled(position(row.names[name], one)) if name in row.names else None for row in rows]
    if None in placed:
        low = round_for_plot(low - (0.7 if isinstance(one, CategoricalDistribution) else NOT_THERE * (high - low)))
        words = ["not there", *words]
    at = [low] * (None in placed) + [scaled(value) for value in at]
    values = [round_for_plot(low if value is None else value) for value in placed]
    return {"label": plotly_label(name), "values": values, "range": [low, high], "tickvals": at, "ticktext": words}


# Axes of parameters


def is_log(one: BaseDistribution) -> bool:
    return bool(getattr(one, "log", False))


def position(value: Any, one: BaseDistribution) -> float:
    """Of a value on its axis: a number is its own, a choice has its place among all."""
    return float(one.to_internal_repr(value))


def ends(one: BaseDistribution) -> Point:
    """Of the axis; of its exponents where it is logarithmic. Never the same."""
    if isinstance(one, CategoricalDistribution):
        return 0.0, max(0.5, len(one.choices) - 1.0)
    low, high = float(one.low), float(one.high)  # type: ignore[attr-defined]
    if is_log(one):
        low, high = math.log10(low), math.log10(high)
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def ticks_of(one: BaseDistribution) -> tuple[list[float], list[str]]:
    if isinstance(one, CategoricalDistribution):
        return [float(at) for at in range(len(one.choices))], [plotly_label(choice, 16) for choice in one.choices]
    low, high = one.low, one.high  # type: ignore[attr-defined]
    if is_log(one):
        at = log_ticks(low, high)
    else:
        at = linear_ticks(low, high, one.step if isinstance(one, IntDistribution) else 0.0)
    return at, [format_number(round_for_plot(value)) for value in at]


# Trials in figures


def number_of(row: Row) -> float:
    return row.number


def add_rows(figure: go.Figure, rows: Sequence[Row], name: str, marker: Mapping[str, Any], place: Place) -> None:
    drawn = evenly_spaced(rows, DOTS)
    add_dots(figure, [(place(row) or 0.0, value_of(row)) for row in drawn], [row.number for row in drawn], name, marker)


def add_others(figure: go.Figure, summary: Summary, place: Place) -> None:
    """Those whose value does not compare: pruned ones have that of fewer tokens, lost ones have none."""
    for name, color, is_one in (("pruned", FAINT, is_pruned), ("lost", LOST, is_lost)):
        rows = [row for row in summary.rows if is_one(row) and place(row) is not None]
        add_strip(figure, {row.number: place(row) or 0.0 for row in evenly_spaced(rows, DOTS)}, name, color)


def add_best(figure: go.Figure, summary: Summary, place: Place) -> None:
    best = summary.best()
    at = place(best) if best is not None else None
    if best is not None and at is not None:
        star = {"color": BEST, "symbol": "star", "size": 14, "line": {"width": 1, "color": "white"}}
        add_dots(figure, [(at, value_of(best))], [best.number], f"best, trial {best.number}", star)
