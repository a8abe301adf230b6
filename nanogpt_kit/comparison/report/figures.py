"""The figures of the report of a comparison: differences by seed, and values by seed. Needs plotly."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]

from nanogpt_kit.comparison.numbers import decimal_text
from nanogpt_kit.comparison.record import Judgement, Verdict
from nanogpt_kit.comparison.sentences import VERDICTS, interval_text
from nanogpt_kit.report.plots import (
    FAINT,
    GRID,
    LINE,
    PLAIN,
    Point,
    empty_figure,
    plotly_label,
    series_color,
    series_symbol,
)

# An arm keeps its colour in all figures, so that verdicts have symbols
SYMBOLS: Mapping[Verdict, str] = {"better": "diamond", "undecided": "diamond-open", "worse": "diamond"}
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
    color: str = PLAIN  # of the arm


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


def draw_differences(rows: Sequence[JudgedRow], decimals: int, title: Sequence[str]) -> go.Figure:
    """A row for each contender: a dot for each seed, the mean with its interval, and a line at 0.

    Hovering shows numbers with `decimals`, as the tables have them.
    """
    figure = row_figure([row.label for row in rows], title)
    points, seeds, colors = [], [], []
    for at, row in enumerate(rows):
        heights = spread_heights(at, len(row.differences))
        points += list(zip(row.differences.values(), heights, strict=True))
        seeds += list(row.differences)
        colors += [row.color] * len(row.differences)
    if points:
        is_crowded = any(len(row.differences) > MANY_SEEDS for row in rows)
        marker = {"color": colors, "size": 5 if is_crowded else 7, "opacity": 0.5 if is_crowded else 0.8}
        add_seed_dots(figure, points, seeds, decimals, "a seed", marker)
    for verdict, has_interval in itertools.product(VERDICTS, (True, False)):
        chosen = {
            at: row
            for at, row in enumerate(rows)
            if row.judgement.difference is not None
            and (row.judgement.verdict, row.judgement.low is not None) == (verdict, has_interval)
        }
        if chosen:
            add_means(figure, chosen, decimals, verdict, has_interval)
    figure.add_vline(x=0, line={"color": LINE, "width": 1.5, "dash": "dash"})
    return figure


def add_means(
    figure: go.Figure, rows: Mapping[int, JudgedRow], decimals: int, verdict: Verdict, has_interval: bool
) -> None:
    """Means, by the index of their row, with their intervals; those without an interval are open squares."""
    judged = [row.judgement for row in rows.values()]
    means = [it.difference or 0.0 for it in judged]
    texts = [[decimal_text(it.difference, decimals), interval_text(it, decimals)] for it in judged]
    colors = [row.color for row in rows.values()]
    interval = {
        "type": "data",
        "symmetric": False,
        "array": [(it.high or 0.0) - mean for it, mean in zip(judged, means, strict=True)],
        "arrayminus": [mean - (it.low or 0.0) for it, mean in zip(judged, means, strict=True)],
        "color": FAINT,
        "thickness": 2.5,
        "width": 6,
    }
    figure.add_scatter(
        x=means,
        y=list(rows),
        customdata=[[plotly_label(row.label), *text] for row, text in zip(rows.values(), texts, strict=True)],
        mode="markers",
        name=f"mean and interval, {verdict}" if has_interval else f"mean without an interval, {verdict}",
        marker={
            "color": colors,
            "size": 12,
            "symbol": SYMBOLS[verdict] if has_interval else "square-open",
            "line": {"width": 2.5, "color": colors},
        },
        error_x=interval if has_interval else None,
        hovertemplate=(
            f"%{{customdata[0]}}<br>mean %{{customdata[1]}}<br>%{{customdata[2]}}<br>{verdict}<extra></extra>"
        ),
    )


def draw_values(rows: Sequence[ArmRow], decimals: int, title: Sequence[str]) -> go.Figure:
    """A row for each arm: a dot for each seed, a bar at the mean, and a line through the values of each seed."""
    figure = row_figure([row.label for row in rows], title)
    lines = [at for path in seed_paths(rows) for at in (*path, (None, None))]
    if lines:
        figure.add_scatter(
            x=[x for x, _ in lines],
            y=[y for _, y in lines],
            mode="lines",
            name="the same seed",
            line={"color": LINE, "width": 1},
            hoverinfo="skip",
        )
    for at, row in enumerate(rows):
        if not row.values:
            continue
        points = [(value, float(at)) for value in row.values.values()]
        marker = {"color": row.color, "symbol": row.symbol, "size": 8, "opacity": 0.85}
        add_seed_dots(figure, points, list(row.values), decimals, row.label, marker, has_legend=False)
        mean = math.fsum(row.values.values()) / len(row.values)
        figure.add_scatter(
            x=[mean],
            y=[at],
            mode="markers",
            name="mean",
            showlegend=not any(trace.name == "mean" for trace in figure.data),
            marker={"color": row.color, "symbol": "line-ns", "size": 20, "line": {"color": row.color, "width": 3}},
            hovertemplate=f"{plotly_label(row.label)}<br>mean {decimal_text(mean, decimals)}<extra></extra>",
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
    decimals: int,
    name: str,
    marker: Mapping[str, Any],
    has_legend: bool = True,
) -> None:
    figure.add_scatter(
        x=[x for x, _ in points],
        y=[y for _, y in points],
        customdata=[[str(seed), decimal_text(x, decimals)] for seed, (x, _) in zip(seeds, points, strict=True)],
        mode="markers",
        name=plotly_label(name),
        showlegend=has_legend,
        marker=marker,
        hovertemplate="seed %{customdata[0]}<br>%{customdata[1]}<extra></extra>",
    )


def row_figure(labels: Sequence[str], title: Sequence[str]) -> go.Figure:
    """An empty figure with a row for each label, the first one at the top. The title of its x axis has lines, since a
    phone has no space for a long one."""
    row = min(MAX_ROW, max(MIN_ROW, ROWS_HEIGHT // max(1, len(labels))))
    figure = empty_figure(146 + row * len(labels), "", "")
    figure.update_layout(showlegend=True)  # of a single entry, too
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
