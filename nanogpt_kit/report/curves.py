"""Curves of metrics: thinned for a figure, and the band of several runs. Steps are finite and in rising order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Points = tuple[Sequence[float], Sequence[float]]  # steps and values, of equal length; a value that is NaN is a gap
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Band:
    """The values of several runs at the steps that all of them have. All sequences have one length."""

    xs: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def thin(xs: Sequence[float], ys: Sequence[float], most: int) -> Points:
    """At most `most` points in their order: the first, the last, and the lowest and highest of each bucket between.

    Values that are not finite become NaN, which figures draw as a gap; a bucket with such a value keeps one of them.
    """
    values = gaps_as_nan(ys)
    kept = kept_indices(values, most)
    return [xs[at] for at in kept.tolist()], values[kept].tolist()


def band_over(curves: Sequence[Points]) -> Band:
    """The mean over runs, and around it their lowest and highest values.

    It has the steps at which every run has a value: nothing is interpolated or extrapolated, and no mean is over fewer
    runs than its neighbours. The band ends with the run that ended first. A value that is not finite in one run is a
    gap. Of a step that a run has twice, the last value counts. `curves` are whole: thinned ones share few steps.
    """
    if not curves:
        return Band([], [], [], [])
    runs = [last_of_each_step(xs, ys) for xs, ys in curves]
    steps = runs[0][0]
    for xs, _ in runs[1:]:
        steps = np.intersect1d(steps, xs, assume_unique=True)
    values = np.stack([ys[np.searchsorted(xs, steps)] for xs, ys in runs])  # (runs, steps)
    mean, low, high = values.mean(axis=0), values.min(axis=0), values.max(axis=0)  # NaN where one is NaN
    return Band(steps.tolist(), mean.tolist(), low.tolist(), high.tolist())


def band_outline(
    xs: Sequence[float], lows: Sequence[float], highs: Sequence[float]
) -> tuple[list[float | None], list[float | None]]:
    """The outlines of the parts of a band, with None between them: along the lows, and back along the highs.

    A step at which one of the two is not finite ends a part.
    """
    outline: list[tuple[float, float] | None] = []
    part: list[tuple[float, float, float]] = []
    for point in [*zip(xs, lows, highs, strict=True), (math.nan, math.nan, math.nan)]:
        if all(map(math.isfinite, point)):
            part.append(point)
        elif part:
            outline += [*((x, low) for x, low, _ in part), *((x, high) for x, _, high in reversed(part)), None]
            part = []
    return [at and at[0] for at in outline[:-1]], [at and at[1] for at in outline[:-1]]


def last_of_each_step(xs: Sequence[float], ys: Sequence[float]) -> tuple[NDArray[Any], Floats]:
    """The steps in rising order, and the last value of each."""
    steps, places = np.unique(np.asarray(xs)[::-1], return_index=True)
    return steps, gaps_as_nan(ys)[::-1][places]


def gaps_as_nan(ys: Sequence[float]) -> Floats:
    """The values as float64, NaN where they are not finite."""
    values = np.array(ys, dtype=np.float64)
    values[~np.isfinite(values)] = np.nan
    return values


def kept_indices(values: Floats, most: int) -> NDArray[np.intp]:
    """The indices, in rising order, of at most `most` values: the first and the last, and of each bucket between them
    the lowest, the highest, and a gap if it has one."""
    count = len(values)
    assert most >= 5, "a bucket has up to three points, beside the first and the last"
    if count <= most:
        return np.arange(count)
    gaps = np.isnan(values)[1:-1]
    buckets = (most - 2) // (3 if gaps.any() else 2)
    size = -(-(count - 2) // buckets)
    lows, highs = bucket_rows(values, size, np.inf), bucket_rows(values, size, -np.inf)
    starts = 1 + size * np.arange(len(lows))
    kept = [np.array([0, count - 1]), starts + lows.argmin(axis=1), starts + highs.argmax(axis=1)]
    if gaps.any():
        rows = np.zeros(len(starts) * size, dtype=bool)
        rows[: len(gaps)] = gaps
        table = rows.reshape(-1, size)
        kept.append((starts + table.argmax(axis=1))[table.any(axis=1)])
    return np.unique(np.concatenate(kept))


def bucket_rows(values: Floats, size: int, filler: float) -> Floats:
    """The values between the first and the last, one bucket a row; NaN and the end of the last row are `filler`."""
    inner = np.nan_to_num(values[1:-1], nan=filler, posinf=filler, neginf=filler)
    rows = np.full(-(-len(inner) // size) * size, filler)
    rows[: len(inner)] = inner
    return rows.reshape(-1, size)
