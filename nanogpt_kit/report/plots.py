"""Parts of plotly figures, in colours that are visible on white and on black. Needs plotly."""

from __future__ import annotations

import html
import math
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import plotly.graph_objects as go  # type: ignore[import-untyped]

from nanogpt_kit.report.curves import band_outline
from nanogpt_kit.report.labels import cut_middle, short_labels, visible_line
from nanogpt_kit.report.page import format_number

BEST, PLAIN, FAINT, LOST, OPEN = "#e8700c", "#3f83d6", "#9199a3", "#d6336c", "#7a6fc0"
# Of runs, arms and branches. Each has a contrast of at least 3 with white and with the dark page.
SERIES = ("#3f83d6", "#e8700c", "#1e785a", "#b44ba5", "#c37887", "#b43c1e", "#960ff0")
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "cross")
LINE, GRID = "rgba(128, 134, 142, 0.7)", "rgba(128, 134, 142, 0.22)"
Scale = list[tuple[float, str]]
EARLY_TO_LATE: Scale = [(0, "#b4c1d1"), (1, "#1f62b5")]
TITLE_LINE = 28  # characters
OUTLIER_RANGES = 3.0  # interquartile ranges beyond a quartile: values further off would flatten the others
Point = tuple[float, float]
T = TypeVar("T")


def empty_figure(height: int, x: str, y: str) -> go.Figure:
    """A figure without data, with its axes named."""
    axis: dict[str, Any] = {
        "gridcolor": GRID,
        "linecolor": LINE,
        "zeroline": False,
        "automargin": True,
        "title": {"font": {"size": 13}, "standoff": 8},
        "tickfont": {"size": 12},
    }
    figure = go.Figure()
    figure.update_layout(
        template="none",
        height=height,
        paper_bgcolor="rgba(0, 0, 0, 0)",
        plot_bgcolor="rgba(0, 0, 0, 0)",
        margin={"l": 64, "r": 24, "t": 40, "b": 48},
        hovermode="closest",
        hoverlabel={"bgcolor": "#2b3138", "bordercolor": "#6b747e", "font": {"color": "#ffffff", "size": 12}},
        legend={"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom", "font": {"size": 12}},
        font={"family": "system-ui, Liberation Sans, Arial, sans-serif"},
        xaxis=axis | {"title": axis["title"] | {"text": axis_title(x)}},
        yaxis=axis | {"title": axis["title"] | {"text": plotly_label(y)}},
    )
    return figure


def axis_title(text: str) -> str:
    """In lines that fit a figure on a phone."""
    return "<br>".join(map(plotly_label, textwrap.wrap(text, TITLE_LINE, break_long_words=False)))


def series_color(index: int) -> str:
    """The colour of a run, arm or branch. Colours repeat; then `series_dash` and `series_symbol` differ."""
    return SERIES[index % len(SERIES)]


def series_dash(index: int) -> str:
    """The dash of a line: solid for the first of each colour."""
    return DASHES[index // len(SERIES) % len(DASHES)]


def series_symbol(index: int) -> str:
    """The marker of a dot: a circle for the first of each colour."""
    return SYMBOLS[index // len(SERIES) % len(SYMBOLS)]


def add_band(
    figure: go.Figure, xs: Sequence[float], lows: Sequence[float], highs: Sequence[float], color: str, name: str
) -> None:
    """The area between two curves, without an entry in the legend; where a value is not finite, it has a gap.

    A line that is in the legend's group `name` (`legendgroup`) is shown and hidden together with it.
    """
    outline_xs, outline_ys = band_outline(xs, lows, highs)
    figure.add_scatter(
        x=[None if x is None else round_for_plot(x) for x in outline_xs],
        y=[None if y is None else round_for_plot(y) for y in outline_ys],
        mode="lines",
        line={"width": 0, "color": color},
        fill="toself",
        opacity=0.2,
        fillcolor=color,
        name=plotly_label(name),
        legendgroup=name,
        showlegend=False,
        hoverinfo="skip",
    )


def bar_chart(
    values: Mapping[str, float], texts: Sequence[str], title: str = "", colors: Sequence[str] | str = PLAIN
) -> go.Figure:
    """Horizontal bars, each with its text at the end."""
    figure = empty_figure(56 + 28 * len(values), title, "")
    figure.add_bar(
        x=[round_for_plot(value) for value in values.values()],
        y=[plotly_label(label) for label in short_labels(list(values)).values()],
        orientation="h",
        marker={"color": colors},
        text=texts,
        textposition="outside",
        textfont={"size": 12},
        cliponaxis=False,
        hoverinfo="skip",
    )
    # Otherwise labels such as "1" and "1.0" are numbers, and one place
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False, fixedrange=True)
    # The text of the longest bar is in the margin, which has room for it at any width
    figure.update_layout(margin={"t": 8, "r": 16 + 8 * max(map(len, texts), default=0)})
    figure.update_xaxes(range=[0, 1.01 * max(values.values(), default=1) or 1], nticks=6, fixedrange=True)
    return figure


def add_dots(
    figure: go.Figure,
    points: Sequence[Point],
    numbers: Sequence[int],
    name: str,
    marker: Mapping[str, Any],
    unit: str = "trial",
) -> None:
    """One dot per trial or other `unit`, such as "seed"; hovering shows its number. `name` is a `plotly_label`."""
    if points:
        figure.add_scatter(
            x=[round_for_plot(x) for x, _ in points],
            y=[round_for_plot(y) for _, y in points],
            customdata=list(numbers),
            mode="markers",
            name=name,
            marker=marker,
            hovertemplate=f"{unit} %{{customdata}}<br>%{{x:.5~g}}, %{{y:.5~g}}<extra></extra>",
        )


def add_crosses_above(figure: go.Figure, xs: Mapping[int, float], name: str, color: str) -> None:
    """Crosses above the figure, for trials without a comparable value: {trial number: x}."""
    if xs:
        marker = {"color": color, "symbol": "x", "size": 6}
        add_dots(figure, [(x, 0.5) for x in xs.values()], list(xs), name, marker)
        figure.data[-1].update(yaxis="y2", hovertemplate=f"trial %{{customdata}}, {name}<extra></extra>")
        strip = {"domain": [0.94, 1], "anchor": "x", "range": [0, 1], "visible": False, "fixedrange": True}
        figure.update_layout(yaxis={"domain": [0, 0.93]}, yaxis2=strip)


def add_lines(
    figure: go.Figure,
    paths: Sequence[Sequence[Point]],
    name: str,
    line: Mapping[str, Any],
    numbers: Sequence[int] = (),
    opacity: float = 1.0,
) -> None:
    """All paths as one trace with gaps, since a thousand traces are slow. A path of one point is a dot.

    `name` is a `plotly_label`, and `numbers` are those of trials, one for each path.
    """
    if not paths:
        return
    xs: list[float | None] = []
    ys: list[float | None] = []
    labels: list[int | None] = []
    for i, path in enumerate(paths):
        xs += [*(round_for_plot(x) for x, _ in path), None]
        ys += [*(round_for_plot(y) for _, y in path), None]
        labels += [numbers[i] if numbers else None] * (len(path) + 1)
    is_dotted = any(len(path) == 1 for path in paths)
    figure.add_scatter(
        x=xs[:-1],
        y=ys[:-1],
        customdata=labels[:-1] if numbers else None,
        mode="lines+markers" if is_dotted else "lines",
        marker={"size": 4},
        name=name,
        line=line,
        opacity=opacity,
        hovertemplate="trial %{customdata}<br>%{x:.4~s}, %{y:.5~g}<extra></extra>" if numbers else None,
        hoverinfo=None if numbers else "skip",
    )


def range_without_outliers(values: Sequence[float], sign: int) -> list[float] | None:
    """(low, high) without outliers on the worse side; None where there are none. `sign` is -1 where more is better."""
    if len(values) < 4:
        return None
    costs = sorted(sign * value for value in values)
    first, _, third = statistics.quantiles(costs, n=4)
    last = third + OUTLIER_RANGES * (third - first)
    if first == third or costs[-1] <= last:
        return None
    last = max(cost for cost in costs if cost <= last)
    return sorted((sign * costs[0], sign * last))


def hide_outliers(figure: go.Figure, values: Sequence[float], sign: int) -> None:
    """Limits the y axis. A double click shows the outliers."""
    limits = range_without_outliers(values, sign)
    if limits:
        margin = 0.06 * (limits[1] - limits[0])
        figure.update_layout(yaxis={"range": [limits[0] - margin, limits[1] + margin]})


def linear_ticks(low: float, high: float, step: float = 0.0) -> list[float]:
    """Round numbers from low to high; with `step`, multiples of it from `low` on."""
    if low >= high:
        return [low]
    if step:
        stride = step * math.ceil((high - low) / step / 6)
        return [low + stride * at for at in range(int((high - low) / stride + 1e-6) + 1)]
    power = 10.0 ** math.floor(math.log10((high - low) / 5))
    stride = next(power * factor for factor in (1, 2, 2.5, 5, 10) if (high - low) / (power * factor) <= 6)
    return [stride * at for at in range(math.ceil(low / stride - 1e-6), math.floor(high / stride + 1e-6) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten from low to high; where they are few, also their multiples by 3, or by 2 and 5."""
    tens = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    for factors in ((1,), (1, 3), (1, 2, 5)):
        found = [ten * factor for ten in tens for factor in factors if low * 0.999 <= ten * factor <= high * 1.001]
        if len(found) >= 3:
            break
    return found[:: math.ceil(len(found) / 6)] if len(found) > 1 else [low, high]


def evenly_spaced(items: Sequence[T], most: int) -> Sequence[T]:
    """At most `most` items, including the first and the last."""
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def round_for_plot(value: float) -> float:
    """Six digits: more than is visible, and a third of the digits of a float."""
    return value if isinstance(value, int) else float(f"{value:.6g}")


def plotly_label(text: object, most: int = 40) -> str:
    """Text in one line, cut in the middle, and escaped, since plotly interprets tags.

    Texts that should differ, such as the names of parameters, need `short_labels` first.
    """
    shown = format_number(text) if isinstance(text, float) else cut_middle(visible_line(str(text)), most)
    return html.escape(shown, quote=False)
