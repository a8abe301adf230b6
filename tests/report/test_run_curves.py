"""Curves of runs: what is read of metrics.jsonl, and what is drawn of many points and of several seeds."""

from __future__ import annotations

import json
import math
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.report.metric_curves import (
    MAX_POINTS,
    MAX_WINDOWS,
    CurveGroup,
    MetricCurve,
    range_after_start,
    range_of_constant,
    read_curves,
    thinned,
    window_means,
    window_width,
)
from nanogpt_kit.report.plots import SERIES
from nanogpt_kit.report.run_curves import draw_curves, draw_losses, draw_panel


def write_lines(path: Path, *lines: dict[str, Any] | bytes) -> Path:
    path.write_bytes(b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines))
    return path


def logged(step: int, loss: float | None = 3.0, **more: float) -> dict[str, Any]:
    return {"step": step, "tokens": 80 * step, "seconds": step / 8, "train/loss": loss, **more}


def curve(*values: float, every: int = 1, is_evaluated: bool = False) -> MetricCurve:
    steps = [every * at for at in range(1, len(values) + 1)]
    return MetricCurve(steps, [80 * step for step in steps], values, is_evaluated)


def lists_of(found: MetricCurve) -> tuple[list[int], list[float], list[float]]:
    return list(found.steps), list(found.tokens), list(found.values)


# Reading


def test_every_metric_has_its_own_steps_and_tokens(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "m", logged(1, 3.5), {"step": 1, "tokens": 80, "val/loss": 3.25}, logged(2, 3.0, new=7)
    )
    found = read_curves(path)
    assert list(found) == ["train/loss", "val/loss", "new"]
    assert lists_of(found["train/loss"]) == ([1, 2], [80, 160], [3.5, 3.0])
    assert lists_of(found["val/loss"]) == ([1], [80], [3.25])
    assert lists_of(found["new"]) == ([2], [160], [7])
    assert [name for name, one in found.items() if one.is_evaluated] == ["val/loss"]
    assert list(read_curves(path, {"val/loss"})) == ["val/loss"]


def test_what_is_damaged_or_torn_is_passed_over(tmp_path: Path) -> None:
    lines = [logged(1), b'{"step": 2, "train/l\xff\n', b"[1]\n", b'{"step": true}\n', b"\n", b'{"step": -1}\n']
    path = write_lines(tmp_path / "m", *lines, logged(3), b'{"step": 4, "tokens": 320, "train/loss": 2.')
    assert lists_of(read_curves(path)["train/loss"])[0] == [1, 3]


def test_a_metric_with_half_of_a_surrogate_pair_in_its_name_hides_no_other(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "tokens": 8, "val/loss": 2.5, "val/\\udcff": 3.0}\n', encoding="utf-8")
    curves = read_curves(path)
    assert {name: list(curve.values) for name, curve in curves.items()} == {"val/loss": [2.5], "val/\udcff": [3.0]}
    assert draw_panel("val/\udcff", curves["val/\udcff"]).to_html().encode("utf-8")


def test_null_and_infinity_are_gaps_and_text_is_nothing(tmp_path: Path) -> None:
    lines = [logged(1, None), b'{"step": 2, "train/loss": 1e999}\n', {"step": 3, "train/loss": "no"}, logged(4)]
    steps, _, values = lists_of(read_curves(write_lines(tmp_path / "m", *lines))["train/loss"])
    assert steps == [1, 2, 4]
    assert [math.isnan(value) for value in values] == [True, True, False]


def test_steps_that_were_written_twice_have_their_last_value(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "m", logged(1, 5.0), logged(2, 4.0), logged(1, 3.0), logged(3, 2.0))
    assert lists_of(read_curves(path)["train/loss"]) == ([1, 2, 3], [80, 160, 240], [3.0, 4.0, 2.0])


def test_without_tokens_the_steps_take_their_place(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "m", {"step": 5, "train/loss": 1.0}, {"step": 6, "tokens": None, "train/loss": 2})
    assert lists_of(read_curves(path)["train/loss"]) == ([5, 6], [5, 6], [1.0, 2.0])


def test_a_file_that_is_missing_or_a_folder_has_no_curves(tmp_path: Path) -> None:
    assert read_curves(tmp_path / "missing") == read_curves(tmp_path) == {}


def test_a_line_without_an_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "m", logged(1), b"[" * (1 << 23), b"\n", logged(2))
    tracemalloc.start()
    assert lists_of(read_curves(path)["train/loss"])[0] == [1, 2]
    assert tracemalloc.get_traced_memory()[1] < 1 << 23
    tracemalloc.stop()


# Many points


def test_a_thinned_curve_keeps_its_extremes_at_their_steps() -> None:
    values = [1 + (step % 7) / 10 for step in range(30_000)]
    values[12_345], values[23_456] = 9.0, 0.25
    few = thinned(curve(*values))
    assert len(few.steps) <= MAX_POINTS
    points = dict(zip(few.steps, few.values, strict=True))
    assert points[12_346] == 9.0
    assert points[23_457] == 0.25
    assert all(tokens == 80 * step for step, tokens in zip(few.steps, few.tokens, strict=True))


def test_means_over_windows_are_at_the_last_step_of_each() -> None:
    found = window_means(curve(1.0, 2.0, 4.0, math.nan, 9.0, 5.0, 3.0), 3)
    assert lists_of(found) == ([3, 6, 7], [240, 480, 560], [7 / 3, 7.0, 3.0])
    assert lists_of(window_means(curve(math.nan), 3)) == ([], [], [])


def test_few_points_are_drawn_as_they_are() -> None:
    assert window_width([curve(*[1.0] * (2 * MAX_WINDOWS))]) == 1
    assert window_width([curve(*[1.0] * 4_000, every=10)]) == 100
    assert window_width([]) == 1


def test_the_figure_of_a_long_run_has_the_spike_and_the_mean() -> None:
    values = [3.0] * 20_000
    values[777] = 50.0
    figure: Any = draw_losses({"train/loss": curve(*values), "val/loss": curve(3.0, 2.5, every=10_000)})
    raw, mean, val = figure.data
    assert max(raw.y) == 50.0
    assert max(mean.y) < 5
    assert list(val.y) == [3.0, 2.5]
    assert [trace.name for trace in figure.data if trace.showlegend is not False] == ["train/loss", "val/loss"]
    assert sum(len(trace.x) for trace in figure.data) < 3_000


@pytest.mark.slow
def test_six_hundred_thousand_steps_are_read_within_seconds_and_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "m"
    with path.open("w") as file:
        for step in range(1, 600_001):
            more = {f"optim/{name}": step / 7 for name in ("lr", "grad_norm", "clip_fraction")}
            speed = {"perf/tokens_per_second": 1.5e6 + step / 3, "memory/peak_bytes": 38730547200.0}
            file.write(json.dumps(logged(step, 3 + 1 / step, **more, **speed)) + "\n")
    began = time.process_time()
    found = read_curves(path)
    assert time.process_time() - began < 15  # 1.9 s on two cores of an AMD EPYC, whatever else runs there
    assert len(found["train/loss"].steps) == 600_000
    held = sum(len(part) * 8 for one in found.values() for part in (one.steps, one.tokens, one.values))
    assert held < 200e6


# Spikes and starts


def test_the_axis_leaves_out_the_start_and_never_a_later_spike() -> None:
    falling = [10.0, *[3.0 - at / 1000 for at in range(400)]]
    assert range_after_start([curve(*falling)]) == pytest.approx((2.601, 3.0), abs=0.05)
    falling[300] = 12.0
    assert range_after_start([curve(*falling)]) is None, "the spike is as high as the start"
    falling[300] = 6.0
    assert range_after_start([curve(*falling)]) == pytest.approx((2.601, 6.0)), "and the start is above it"


def test_curves_without_a_later_part_have_the_range_of_their_own() -> None:
    assert range_after_start([]) is None
    assert range_after_start([curve(math.nan, math.nan)]) is None
    assert range_after_start([curve(2.0)]) is None


def test_a_constant_has_a_range_around_it() -> None:
    assert range_of_constant([curve(4.0, 4.0), curve(4.0)]) == pytest.approx((3.6, 4.4))
    assert range_of_constant([curve(-4.0)]) == pytest.approx((-4.4, -3.6))
    assert range_of_constant([curve(0.0)]) == (-1, 1)
    assert range_of_constant([curve(4.0, 5.0)]) is None


# Seeds


def test_a_group_is_a_band_a_mean_and_a_faint_line_for_each_seed() -> None:
    group = CurveGroup("a", {"seed 1": curve(3.0, 2.0), "seed 2": curve(5.0, 3.0)}, 0)
    figure: Any = draw_curves([group, CurveGroup("b", {"seed 1": curve(1.0)}, 1)], "val/loss")
    band, first, second, mean, other = figure.data
    assert band.fill == "toself"
    assert list(band.y) == [3.0, 2.0, 3.0, 5.0]
    assert (list(first.y), list(second.y), list(mean.y)) == ([3.0, 2.0], [5.0, 3.0], [4.0, 2.5])
    assert list(mean.customdata) == [1, 2], "the steps, for hovering"
    assert [mean.name, other.name] == ["a (n = 2)", "b (n = 1)"]
    assert (first.showlegend, second.showlegend) == (False, False)
    assert "a, seed 2" in second.hovertemplate
    assert mean.line.color != other.line.color


def test_the_mean_is_over_the_runs_that_are_as_long_as_the_longest() -> None:
    runs = {"seed 1": curve(3.0, 2.0), "seed 2": curve(5.0, 3.0), "seed 3": curve(9.0)}
    figure: Any = draw_curves([CurveGroup("a", runs, 0)], "val/loss")
    assert list(figure.data[-1].y) == [4.0, 2.5]
    assert figure.data[-1].name == "a (n = 2 of 3)"
    assert sum(list(trace.y) == [9.0] for trace in figure.data) == 1, "it is drawn, too"


def test_long_names_stay_distinct_in_the_legend() -> None:
    names = ["model.mlp=" + "x" * 60 + end for end in ("a", "b")]
    figure: Any = draw_curves(
        [CurveGroup(name, {"seed 1": curve(1.0, 2.0)}, at) for at, name in enumerate(names)], "val/loss"
    )
    assert len({trace.name for trace in figure.data}) == 2
    assert max(len(trace.name) for trace in figure.data) < 50


def test_groups_of_a_page_that_share_a_colour_differ_in_their_dash_also_where_those_between_are_not_drawn() -> None:
    places = (0, len(SERIES))
    figure: Any = draw_curves([CurveGroup(f"arm {at}", {"seed 1": curve(1.0, 2.0)}, at) for at in places], "val/loss")
    first, second = figure.data
    assert first.line.color == second.line.color
    assert first.line.dash != second.line.dash


def test_a_spike_of_one_run_among_thousands_of_steps_is_drawn_in_a_figure_of_groups() -> None:
    values = [2.0] * 5_000
    values[3_210] = 77.0
    alone: Any = draw_curves([CurveGroup("a", {"seed 1": curve(*values)}, 0)], "train/loss")
    several: Any = draw_curves([CurveGroup("a", {"seed 1": curve(*values), "seed 2": curve(*values)}, 0)], "train/loss")
    assert [max(trace.y) == 77.0 for trace in alone.data] == [True, False], "the run, and the means over windows"
    assert sum(max(trace.y) == 77.0 for trace in several.data) == 2
    assert all(len(trace.y) <= 16_000 for trace in several.data)
