"""The figures of the report of a comparison: differences by seed, and values by seed. Needs plotly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]

from nanogpt_kit.comparison.record import Judgement, Verdict
from nanogpt_kit.comparison.sentences import VERDICTS
from nanogpt_kit.report.plots import (
    FAINT,
    GRID,
    LINE,
    Point,
    add_lines,
    empty_figure,
    plotly_label,
    round_for_plot,
    series_color,
    series_symbol,
)

COLORS: Mapping[Verdict, str] = {"better": "#1f7ac4", "undecided": FAINT, "worse": "#d9622b"}  # as in page.css
SEED = "#7d858f"  # of the dot of a pair
ROWS_HEIGHT = 420  # pixels of all rows together: with heading and note they fit a printed page
MIN_ROW, MAX_ROW = 13, 44  # pixels of a row
LOW_ROW = 18  # pixels; in lower ones the labels are smaller
MANY_SEEDS = 25  # whose dots would hide the mean
SPREAD = 0.3  # of a row, over which the dots of its seeds are spread


@dataclass(frozen=True)
class JudgedRow:
    """A contender, or an effect, in the figure of differences."""

    label: str
    judgement: Judgement
    differences: Mapping[int, float] = field(default_factory=dict)  # by seed


@dataclass(frozen=True)
class ArmRow:
    """An arm in the figure of values."""

    label: str
    values: Mapping[int, float]  # by seed
    color: str
    symbol: str

    @classmethod
    def of(cls, label: str, values: Mapping[int, float], index: int) -> ArmRow:
        return cls(label, values, series_color(index), series_symbol(index))


def draw_differences(rows: Sequence[JudgedRow], title: Sequence[str]) -> go.Figure:
    """A row for each contender: a dot for each seed, the mean with its interval, and a line at 0."""
    figure = row_figure([row.label for row in rows], title)
    points, seeds = [], []
    for at, row in enumerate(rows):
        heights = spread_heights(at, len(row.differences))
        points += list(zip(row.differences.values(), heights, strict=True))
        seeds += list(row.differences)
    if points:
        is_crowded = any(len(row.differences) > MANY_SEEDS for row in rows)
        marker = {"color": SEED, "size": 5 if is_crowded else 7, "opacity": 0.5 if is_crowded else 0.8}
        add_seed_dots(figure, points, seeds, "a seed", marker)
    for verdict in VERDICTS:
        add_means(figure, [(at, row) for at, row in enumerate(rows) if row.judgement.verdict == verdict], verdict)
    figure.add_vline(x=0, line={"color": LINE, "width": 1.5, "dash": "dash"})
    return figure


def add_means(figure: go.Figure, rows: Sequence[tuple[int, JudgedRow]], verdict: Verdict) -> None:
    """Means with their intervals; one without an interval is an open diamond."""
    judged = [(at, row.label, row.judgement) for at, row in rows]
    for has_interval in (True, False):
        chosen = [
            (at, label, it, it.difference)
            for at, label, it in judged
            if it.difference is not None and (it.low is not None and it.high is not None) == has_interval
        ]
        if not chosen:
            continue
        ends = [(it.low or 0.0, it.high or 0.0) if has_interval else (mean, mean) for _, _, it, mean in chosen]
        figure.add_scatter(
            x=[round_for_plot(mean) for *_, mean in chosen],
            y=[at for at, *_ in chosen],
            customdata=[
                [plotly_label(label), low, high] for (_, label, *_), (low, high) in zip(chosen, ends, strict=True)
            ],
            mode="markers",
            name=f"mean and interval, {verdict}" if has_interval else f"mean without an interval, {verdict}",
            marker={
                "color": COLORS[verdict],
                "size": 11,
                "symbol": "diamond" if has_interval else "diamond-open",
                "line": {"width": 1.5, "color": COLORS[verdict]},
            },
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [high - mean for (*_, mean), (_, high) in zip(chosen, ends, strict=True)],
                "arrayminus": [mean - low for (*_, mean), (low, _) in zip(chosen, ends, strict=True)],
                "color": COLORS[verdict],
                "thickness": 2.5,
                "width": 6,
                "visible": has_interval,
            },
            hovertemplate="%{customdata[0]}<br>mean %{x:.5~g}"
            + ("<br>%{customdata[1]:.5~g} to %{customdata[2]:.5~g}" if has_interval else "")
            + f"<br>{verdict}<extra></extra>",
        )


def draw_values(rows: Sequence[ArmRow], title: Sequence[str]) -> go.Figure:
    """A row for each arm: a dot for each seed, a bar at the mean, and a line through the values of each seed."""
    figure = row_figure([row.label for row in rows], title)
    add_lines(figure, seed_paths(rows), "the same seed", {"color": LINE, "width": 1})
    for at, row in enumerate(rows):
        if not row.values:
            continue
        points = [(value, float(at)) for value in row.values.values()]
        marker = {"color": row.color, "symbol": row.symbol, "size": 8, "opacity": 0.85}
        add_seed_dots(figure, points, list(row.values), row.label, marker, has_legend=False)
        mean = math.fsum(row.values.values()) / len(row.values)
        figure.add_scatter(
            x=[round_for_plot(mean)],
            y=[at],
            mode="markers",
            name="mean",
            showlegend=not any(trace.name == "mean" for trace in figure.data),
            marker={"color": row.color, "symbol": "line-ns", "size": 20, "line": {"color": row.color, "width": 3}},
            hovertemplate=f"{plotly_label(row.label)}<br>mean %{{x:.5~g}}<extra></extra>",
        )
    return figure


def seed_paths(rows: Sequence[ArmRow]) -> list[list[Point]]:
    """For each seed its values in neighbouring rows; a row without it interrupts the line."""
    paths: list[list[Point]] = []
    for seed in sorted({seed for row in rows for seed in row.values}):
        path: list[Point] = []
        for at, row in enumerate(rows):
            if seed in row.values:
                path.append((row.values[seed], float(at)))
                continue
            paths.append(path)
            path = []
        paths.append(path)
    return [path for path in paths if len(path) > 1]


def add_seed_dots(
    figure: go.Figure,
    points: Sequence[Point],
    seeds: Sequence[int],
    name: str,
    marker: Mapping[str, Any],
    has_legend: bool = True,
) -> None:
    figure.add_scatter(
        x=[round_for_plot(x) for x, _ in points],
        y=[y for _, y in points],
        customdata=[str(seed) for seed in seeds],
        mode="markers",
        name=plotly_label(name),
        showlegend=has_legend,
        marker=marker,
        hovertemplate="seed %{customdata}<br>%{x:.5~g}<extra></extra>",
    )


def row_figure(labels: Sequence[str], title: Sequence[str]) -> go.Figure:
    """An empty figure with a row for each label, the first one at the top. The title of its x axis has lines, since a
    phone has no space for a long one."""
    row = min(MAX_ROW, max(MIN_ROW, ROWS_HEIGHT // max(1, len(labels))))
    figure = empty_figure(146 + row * len(labels), "", "")
    figure.update_xaxes(title_text="<br>".join(map(plotly_label, title)))
    figure.update_yaxes(
        tickvals=list(range(len(labels))),
        ticktext=[plotly_label(label) for label in labels],
        range=[len(labels) - 0.4, -0.6],
        tickfont={"size": 10 if row < LOW_ROW else 12},
        showgrid=False,
        fixedrange=True,
    )
    # Few labels, since a phone has no space for more; ticks between them
    minor = {"ticks": "outside", "ticklen": 4, "tickcolor": LINE, "nticks": 6, "showgrid": True, "gridcolor": GRID}
    figure.update_xaxes(exponentformat="e", nticks=4, ticks="outside", ticklen=6, tickcolor=LINE, minor=minor)
    return figure


def spread_heights(row: int, count: int) -> list[float]:
    """The height of each dot of a row: in the order of the seeds from above to below the middle."""
    if count < 2:
        return [float(row)] * count
    return [row + SPREAD * (2 * at / (count - 1) - 1) for at in range(count)]
