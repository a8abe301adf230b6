"""Figures of features over the width of a model. Needs plotly.

Places that differ only in their layer have one colour and one entry in the legend.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from nanogpt_kit.bench.width_slopes import TOLERANCE, PlaceScaling, WidthScaling
from nanogpt_kit.report import plots
from nanogpt_kit.report.page import Figure

HEIGHT = 420
LEAST_RANGE = 0.3  # of slopes, so that those within the tolerance look small


def draw_changes(scaling: WidthScaling) -> Figure:
    """The change after the last step over the width."""
    return figure_over_width(scaling, "mean change of features", lambda place: [row[-1] for row in place.changes])


def draw_start(scaling: WidthScaling) -> Figure:
    """The features before the first step over the width."""
    return figure_over_width(scaling, "mean magnitude of features", lambda place: [row[0] for row in place.sizes])


def draw_slopes(scaling: WidthScaling) -> Figure:
    """The slope of the change over the step."""
    figure = plots.empty_figure(HEIGHT, "step", "slope of the change")
    figure.add_hrect(y0=-TOLERANCE, y1=TOLERANCE, fillcolor=plots.FAINT, opacity=0.25, line_width=0)
    steps = range(1, scaling.steps + 1)
    for place, style in styled(scaling.places):
        add_place(figure, place, steps, place.change_slopes, style, "step")
    slopes = [
        slope for place in scaling.places for slope in place.change_slopes if slope is not None and slope == slope
    ]
    low, high = min([-LEAST_RANGE, *slopes]), max([LEAST_RANGE, *slopes])
    figure.update_yaxes(range=[low - 0.05 * (high - low), high + 0.05 * (high - low)])
    figure.update_xaxes(tickvals=plots.linear_ticks(1, scaling.steps, 1))
    return cast("Figure", figure)


def figure_over_width(scaling: WidthScaling, y: str, values_of: Callable[[PlaceScaling], list[float]]) -> Figure:
    """Both axes logarithmic, a line for each place; values that are 0 or not finite are gaps."""
    figure = plots.empty_figure(HEIGHT, "width (model.n_embd)", y)
    shown = []
    for place, style in styled(scaling.places):
        values = values_of(place)
        shown += [value for value in values if 0 < value < math.inf]
        add_place(figure, place, scaling.widths, values, style, "width")
    ticks = plots.evenly_spaced(scaling.widths, 8)
    figure.update_xaxes(type="log", tickvals=list(ticks), ticktext=[f"{width}" for width in ticks])
    ticks_of_y = plots.log_ticks(min(shown), max(shown)) if shown else []
    figure.update_yaxes(type="log", tickvals=ticks_of_y, ticktext=[f"{tick:g}" for tick in ticks_of_y])
    return cast("Figure", figure)


def styled(places: Sequence[PlaceScaling]) -> Iterator[tuple[PlaceScaling, dict[str, Any]]]:
    """Each place with the style of its line: places of all layers alike."""
    kinds: dict[str, int] = {}
    for place in places:
        kind = re.sub(r"\.\d+", "", place.name)
        is_first = kind not in kinds
        index = kinds.setdefault(kind, len(kinds))
        line = {"color": plots.series_color(index), "width": 1.5, "dash": plots.series_dash(index)}
        legend = {"name": plots.plotly_label(kind), "legendgroup": kind, "showlegend": is_first}
        yield place, {"line": line, **legend}


def add_place(
    figure: Any,
    place: PlaceScaling,
    xs: Sequence[float],
    ys: Sequence[float | None],
    style: dict[str, Any],
    unit: str,
) -> None:
    """A line with gaps where a value is not finite."""
    figure.add_scatter(
        x=list(xs),
        y=[None if y is None or math.isnan(y) else plots.round_for_plot(y) for y in ys],
        mode="lines+markers",
        marker={"size": 5},
        hovertemplate=f"{plots.plotly_label(place.name)}<br>{unit} %{{x}}<br>%{{y:.4~g}}<extra></extra>",
        **style,
    )
