"""Metrics of runs over tokens: read from metrics.jsonl of any length, thinned, and averaged over windows of steps."""

from __future__ import annotations

import math
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydantic_core

from nanogpt_kit.report.curves import Points, thin
from nanogpt_kit.runs.metrics import MAX_LINE, parse_metrics_line
from nanogpt_kit.runs.metrics_table import IN_EVERY_ROW, column_order
from nanogpt_kit.system.reading import open_regular_file

TRAIN_LOSS = "train/loss"  # in every line of a logged step, and in none of an evaluation
MAX_STEP = 2**63
BOUND = 1e300  # of values, as in runs.metrics.is_finite_number
MAX_POINTS = 1_600  # of a curve in a figure, whose width is about as many pixels
MAX_WINDOWS = 400  # of a curve that is drawn as means
MAX_PANELS = 24  # small figures of a page, each of one metric
FIRST_PANELS = ("optim/lr", "optim/grad_norm", "perf/tokens_per_second", "memory/peak_bytes")
START_FRACTION = 0.05  # of a run: the loss falls from far above there, and would flatten all that follows


@dataclass
class MetricCurve:
    """A metric of one run in the order of the steps; the sequences have equal lengths. NaN: it was not finite."""

    steps: Sequence[int] = field(default_factory=lambda: array("q"))
    tokens: Sequence[float] = field(default_factory=lambda: array("d"))  # trained until then; the step if not logged
    values: Sequence[float] = field(default_factory=lambda: array("d"))
    is_evaluated: bool = False  # by evaluators, and not logged with the training loss

    @property
    def points(self) -> Points:
        """(tokens, values), as `report.curves` takes them."""
        return self.tokens, self.values

    def at(self, places: Sequence[int]) -> MetricCurve:
        """The points with these indices."""
        return MetricCurve(
            [self.steps[place] for place in places],
            [self.tokens[place] for place in places],
            [self.values[place] for place in places],
            self.is_evaluated,
        )


@dataclass(frozen=True)
class CurveGroup:
    """Runs of one configuration, which differ in their seed: one mean, one band, and a faint line for each run."""

    name: str  # in the legend, which adds the number of runs
    curves: Mapping[str, MetricCurve]  # by what hovering shows of a run, as "seed 1337"
    place: int  # among the groups of the page: the same colour and dash in each of its figures


def read_curves(path: Path, names: Collection[str] | None = None) -> dict[str, MetricCurve]:
    """The metrics of metrics.jsonl by name (default: all), each with the last value of each step.

    Damaged lines and an incomplete last one are passed over; a file that is missing has no curves.
    """
    steps, tokens = array("q"), array("d")
    found: dict[str, MetricValues | None] = dict.fromkeys(IN_EVERY_ROW)  # None: not requested
    for row, record in enumerate(stream_records(path)):
        steps.append(record["step"])
        count: Any = record.get("tokens")
        tokens.append(count if type(count) in (int, float) and 0 <= count < BOUND else record["step"])
        for name, value in record.items():
            if name not in found:
                is_wanted = names is None or name in names
                found[name] = MetricValues(TRAIN_LOSS not in record) if is_wanted else None
            metric = found[name]
            if metric is None:
                continue
            if type(value) is not float:  # null stands for what is not finite
                if value is not None and (type(value) is not int or not -BOUND < value < BOUND):
                    continue
                value = math.nan if value is None else value
            metric.add_row(row)
            metric.add_value(value)
    curves = {name: metric.curve(steps, tokens) for name, metric in found.items() if metric}
    return {name: curves[name] for name in sorted(curves, key=column_order) if len(curves[name].steps)}


class MetricValues:
    """The values of one metric, each with the index of its line."""

    def __init__(self, is_evaluated: bool) -> None:
        self.is_evaluated = is_evaluated
        self.rows, self.values = array("q"), array("d")
        self.add_row, self.add_value = self.rows.append, self.values.append  # they are called millions of times

    def curve(self, steps: array[int], tokens: array[float]) -> MetricCurve:
        """With the steps and tokens of those lines."""
        parts = array("q", map(steps.__getitem__, self.rows)), array("d", map(tokens.__getitem__, self.rows))
        values = np.asarray(self.values)
        values[~(np.abs(values) < BOUND)] = math.nan
        return in_order_of_steps(MetricCurve(*parts, self.values, self.is_evaluated))


def stream_records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of metrics.jsonl, one at a time. pydantic's parser takes a third of the time that Python's takes."""
    try:
        with open_regular_file(path) as file:
            while line := file.readline(MAX_LINE):
                try:
                    record = pydantic_core.from_json(line, cache_strings="keys")
                except ValueError:  # damaged, or with half of a surrogate pair in a text, which JSON may have
                    record = parse_metrics_line(line)
                step = record.get("step") if isinstance(record, dict) else None
                if type(step) is int and 0 <= step < MAX_STEP:
                    yield record
    except (OSError, ValueError):  # missing, not a regular file, or a name with NUL in it
        return


def in_order_of_steps(curve: MetricCurve) -> MetricCurve:
    """The last value of each step. Files are in order, except where somebody edited them."""
    steps = np.asarray(curve.steps)
    if len(steps) < 2 or (np.diff(steps) > 0).all():
        return curve
    _, places = np.unique(steps[::-1], return_index=True)
    return curve.at((len(steps) - 1 - places).tolist())


def thinned(curve: MetricCurve, most: int = MAX_POINTS) -> MetricCurve:
    """At most `most` points, with the lowest and the highest of each part."""
    places, _ = thin(range(len(curve.steps)), curve.values, most)
    return curve.at([int(place) for place in places])


def window_means(curve: MetricCurve, width: int) -> MetricCurve:
    """The means over windows of `width` steps, each at its last logged step, of the values that are finite."""
    steps, tokens, values = (np.asarray(part) for part in (curve.steps, curve.tokens, curve.values))
    is_finite = np.isfinite(values)
    steps, tokens, values = steps[is_finite], tokens[is_finite], values[is_finite]
    if not len(steps):
        return MetricCurve(is_evaluated=curve.is_evaluated)
    windows = (steps - 1) // width
    starts = np.flatnonzero(np.diff(windows, prepend=windows[0] - 1))
    ends = np.append(starts[1:], len(steps)) - 1
    means = np.add.reduceat(values, starts) / (ends - starts + 1)
    return MetricCurve(steps[ends].tolist(), tokens[ends].tolist(), means.tolist(), curve.is_evaluated)


def window_width(curves: Sequence[MetricCurve]) -> int:
    """Steps of a window of which the longest curve has MAX_WINDOWS; 1 where no curve has many more points than that."""
    if max((len(curve.steps) for curve in curves), default=0) <= 2 * MAX_WINDOWS:
        return 1
    return math.ceil(max(curve.steps[-1] for curve in curves if len(curve.steps)) / MAX_WINDOWS)


def first_panels(names: Iterable[str]) -> list[str]:
    """The metrics in the order of their small figures: the usual ones first."""
    return sorted(names, key=lambda name: FIRST_PANELS.index(name) if name in FIRST_PANELS else len(FIRST_PANELS))


def range_of_constant(curves: Sequence[MetricCurve]) -> tuple[float, float] | None:
    """A range around the only value that there is, whose ticks would have ten digits otherwise; None of others."""
    values = {value for curve in curves for value in curve.values if math.isfinite(value)}
    if len(values) != 1:
        return None
    (value,) = values
    return (0.9 * value, 1.1 * value) if value > 0 else (1.1 * value, 0.9 * value) if value else (-1.0, 1.0)


def range_after_start(curves: Sequence[MetricCurve]) -> tuple[float, float] | None:
    """(low, high) of all values after the start, every later spike included; None where the start is not far above."""
    end = max((curve.tokens[-1] for curve in curves if len(curve.tokens)), default=0.0)
    values: list[float] = []
    later: list[float] = []
    for curve in curves:
        is_finite = np.isfinite(np.asarray(curve.values, dtype=float))
        finite = np.asarray(curve.values, dtype=float)[is_finite]
        values += finite.tolist()
        later += finite[np.asarray(curve.tokens, dtype=float)[is_finite] > START_FRACTION * end].tolist()
    if len(later) < 2:
        return None
    low, high = min(values), max(later)
    return (low, high) if low < high and max(values) - low > 1.5 * (high - low) else None
