"""Parts of figures: colours that everybody can tell apart, axes of names, and bands with gaps."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

pytest.importorskip("plotly")

from nanogpt_kit.report.plots import (
    DASHES,
    SERIES,
    add_band,
    add_dots,
    bar_chart,
    empty_figure,
    plotly_label,
    series_color,
    series_dash,
    series_symbol,
)

WHITE, DARK = (1.0, 1.0, 1.0), (0x14 / 255, 0x17 / 255, 0x1B / 255)
# How eyes without one kind of cone see linear RGB (Machado, Oliveira & Fernandes 2009, severity 1)
EYES = {
    "usual": np.eye(3),
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


def linear(color: str | tuple[float, ...]) -> np.ndarray:
    rgb = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)] if isinstance(color, str) else color
    return np.array([value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in rgb])


def contrast(one: str, other: tuple[float, ...]) -> float:
    """As WCAG 2 defines it."""
    low, high = sorted(float(linear(color) @ [0.2126, 0.7152, 0.0722]) for color in (one, other))
    return (high + 0.05) / (low + 0.05)


def oklab(rgb: np.ndarray) -> np.ndarray:
    cones = [[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]]
    axes = [[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]
    return np.array(axes) @ np.cbrt(np.array(cones) @ np.clip(rgb, 0, 1))


@pytest.mark.parametrize("color", SERIES)
@pytest.mark.parametrize("page", [WHITE, DARK])
def test_every_colour_is_visible_on_white_and_on_the_dark_page(color: str, page: tuple[float, ...]) -> None:
    assert contrast(color, page) >= 3


@pytest.mark.parametrize("eye", EYES)
def test_colours_differ_also_for_colour_blind_eyes(eye: str) -> None:
    shown = [oklab(np.array(EYES[eye]) @ linear(color)) for color in SERIES]
    assert min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(shown, 2)) > 0.06


def test_beyond_the_colours_dashes_and_symbols_differ() -> None:
    series = [(series_color(at), series_dash(at), series_symbol(at)) for at in range(len(SERIES) * len(DASHES))]
    for other in (1, 2):
        assert len({(one[0], one[other]) for one in series}) == len(series)
    assert {one[1:] for one in series[: len(SERIES)]} == {("solid", "circle")}


def test_names_that_plotly_would_merge_are_bars_of_their_own() -> None:
    names = ["1", "1.0", "2020-01-01", "<b>a</b>", "a", "a ", *(f"{'x' * 40}{at}{'y' * 40}" for at in range(3))]
    figure = bar_chart(dict.fromkeys(names, 0.5), ["0.50"] * len(names))
    assert figure.layout.yaxis.type == "category"
    assert len(set(figure.data[0].y)) == len(names)
    assert figure.data[0].y[3] == "&lt;b&gt;a&lt;/b&gt;"


def test_bars_of_nothing_have_an_axis() -> None:
    assert bar_chart({}, []).layout.xaxis.range[1] > 0
    assert bar_chart({"a": 0.0}, ["0"]).layout.xaxis.range[1] > 0


def test_a_band_goes_along_the_lows_and_back_along_the_highs_with_a_gap_at_what_is_not_finite() -> None:
    figure = empty_figure(300, "step", "loss")
    add_band(figure, [1, 2, 3, 4, 5], [1, 2, math.nan, 4, 5], [11, 12, 13, 14, math.inf], "#3f83d6", "a")
    (trace,) = figure.data
    assert trace.x == (1, 2, 2, 1, None, 4, 4)
    assert trace.y == (1, 2, 12, 11, None, 4, 14)
    assert (trace.fill, trace.showlegend, trace.legendgroup) == ("toself", False, "a")


def test_a_band_of_nothing_is_nothing() -> None:
    figure = empty_figure(300, "step", "loss")
    add_band(figure, [], [], [], "#3f83d6", "a")
    assert not figure.data[0].x


def test_dots_name_their_unit() -> None:
    figure = empty_figure(300, "a", "b")
    add_dots(figure, [(1.0, 2.0)], range(1337, 1338), "seeds", {}, "seed")
    assert figure.data[0].hovertemplate.startswith("seed %{customdata}")


def test_the_titles_of_axes_are_no_tags_and_fit_a_phone() -> None:
    figure = empty_figure(300, "<i>x</i>", "y")
    assert figure.layout.xaxis.title.text == "&lt;i&gt;x&lt;/i&gt;"
    assert empty_figure(300, "difference in val/loss, negative: lower", "y").layout.xaxis.title.text == (
        "difference in val/loss,<br>negative: lower"
    )
    assert plotly_label("<b>a\u202eb</b>") == "&lt;b&gt;a\\u202eb&lt;/b&gt;"
