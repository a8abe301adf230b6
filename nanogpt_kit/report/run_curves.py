"""Figures of the metrics of runs, over tokens: with a band over seeds, or of one run. Needs plotly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from nanogpt_kit.report import plots
from nanogpt_kit.report.curves import band_over
from nanogpt_kit.report.labels import short_labels
from nanogpt_kit.report.metric_curves import (
    CurveGroup,
    MetricCurve,
    range_after_start,
    range_of_constant,
    thinned,
    window_means,
    window_width,
)
from nanogpt_kit.report.page import Figure

MAX_LEGEND = 30  # characters of a name there, which fits a phone
FEW_POINTS = 30  # which are drawn as dots, too
SMALL_POINTS = 500  # of a curve in a small figure
MAX_GROUP_POINTS, MIN_POINTS = 16_000, 200  # of all runs of a figure together, and of each of them at the least


def draw_curves(groups: Sequence[CurveGroup], metric: str, height: int = 360, has_legend: bool = True) -> Figure:
    """One line with a band for each group, over tokens, and a faint line for each run.

    Of curves with many points the line and the band are those of means over windows of steps, see `window_width`; the
    faint lines keep the lowest and the highest values. The mean and the band are those of the runs that are as long as
    the longest of their group.
    """
    figure: Any = plots.empty_figure(height, "tokens", metric)
    width = window_width([curve for group in groups for curve in group.curves.values()])
    runs = max(1, sum(len(group.curves) for group in groups))
    shown: list[MetricCurve] = []
    labels = short_labels([group.name for group in groups], MAX_LEGEND)
    for group in groups:
        means = {run: window_means(curve, width) if width > 1 else curve for run, curve in group.curves.items()}
        means = {run: curve for run, curve in means.items() if len(curve.steps)}
        most = max(MIN_POINTS, MAX_GROUP_POINTS // runs)
        faint = {run: thinned(group.curves[run], most) if width > 1 else curve for run, curve in means.items()}
        if means:
            add_group(figure, replace(group, name=labels[group.name], curves=means), faint)
            shown += faint.values()
    finish_axes(figure, shown, is_small=not has_legend)
    figure.update_layout(showlegend=has_legend)
    return cast("Figure", figure)


def add_group(figure: Any, group: CurveGroup, faint: Mapping[str, MetricCurve]) -> None:
    """`group` has the curves that the mean is over, and `faint` those that are drawn of its runs."""
    color, dash = plots.series_color(group.place), plots.series_dash(group.place)
    last = max(curve.steps[-1] for curve in group.curves.values())
    whole = {run: curve for run, curve in group.curves.items() if curve.steps[-1] == last}
    count = f"n = {len(whole)}" + (f" of {len(group.curves)}" if len(whole) < len(group.curves) else "")
    line = {"color": color, "width": 2, "dash": dash}
    legend = {"legendgroup": group.name, "name": f"{plots.plotly_label(group.name)} ({count})"}
    band = band_over([curve.points for curve in whole.values()])
    if len(whole) > 1:
        plots.add_band(figure, band.xs, band.low, band.high, color, group.name)
    for run, curve in faint.items():
        if len(group.curves) == 1 and curve is group.curves[run]:
            continue  # the line itself
        text = plots.plotly_label(f"{group.name}, {run}")
        thin_line = {"color": color, "width": 1, "dash": dash}
        add_curve(figure, curve, text, line=thin_line, opacity=0.4, showlegend=False, legendgroup=group.name, name=text)
    if len(group.curves) == 1:
        (run, curve), *_ = group.curves.items()
        add_curve(figure, curve, plots.plotly_label(f"{group.name}, {run}"), line=line, **legend)
        return
    step_of = dict(zip(whole[next(iter(whole))].tokens, whole[next(iter(whole))].steps, strict=True))
    mean = MetricCurve([step_of[x] for x in band.xs], band.xs, band.mean)
    add_curve(figure, mean, f"{plots.plotly_label(group.name)}, mean of {len(whole)}", line=line, **legend)


def add_curve(figure: Any, curve: MetricCurve, text: str, **trace: Any) -> None:
    """A line; hovering shows `text`, the step, the tokens and the value."""
    figure.add_scatter(
        x=list(map(plots.round_for_plot, curve.tokens)),
        y=[None if math.isnan(value) else plots.round_for_plot(value) for value in curve.values],
        customdata=list(curve.steps),
        mode="lines+markers" if len(curve.steps) <= FEW_POINTS else "lines",
        marker={"size": 5},
        hovertemplate=f"{text}<br>step %{{customdata:,}}, %{{x:.4~s}} tokens<br>%{{y:.5~g}}<extra></extra>",
        **trace,
    )


def finish_axes(figure: Any, curves: Sequence[MetricCurve], is_small: bool = False) -> None:
    """Tokens as 1.5M; the y axis begins where the curves do after their start. A double click shows all of it."""
    figure.update_xaxes(tickformat="~s", nticks=5 if is_small else 8)
    limits = range_of_constant(curves) or range_after_start(curves)
    if limits:
        margin = 0.05 * (limits[1] - limits[0])
        figure.update_yaxes(range=[limits[0] - margin, limits[1] + margin])


def draw_losses(losses: Mapping[str, MetricCurve]) -> Figure:
    """Training and validation loss over tokens; of many points also the mean over windows of steps."""
    figure = plots.empty_figure(400, "tokens", "loss, nats per token")
    shown = []
    for index, (name, curve) in enumerate(losses.items()):
        color = plots.series_color(index)
        points = thinned(curve)
        width = window_width([curve])
        line = {"color": color, "width": 1 if width > 1 else 2}
        add_curve(figure, points, name, name=name, line=line, opacity=0.35 if width > 1 else 1, showlegend=width == 1)
        if width > 1:
            means = window_means(curve, width)
            add_curve(figure, means, f"{name}, mean of {width} steps", name=name, line={"color": color, "width": 2})
        shown.append(points)
    finish_axes(figure, shown)
    return cast("Figure", figure)


def draw_panel(name: str, curve: MetricCurve) -> Figure:
    points = thinned(curve, SMALL_POINTS)
    figure = plots.empty_figure(230, "tokens", name)
    add_curve(figure, points, plots.plotly_label(name), line={"color": plots.PLAIN, "width": 1.5})
    finish_axes(figure, [points], is_small=True)
    figure.update_layout(margin={"t": 12}, showlegend=False)
    return cast("Figure", figure)
