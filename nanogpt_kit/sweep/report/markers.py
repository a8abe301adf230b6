"""Markers of trials in the figures of a report: complete, pruned, without a result, and the best. Needs plotly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]

from nanogpt_kit.report.plots import (
    FAINT,
    LOST,
    Point,
    add_crosses_above,
    add_dots,
    evenly_spaced,
    range_without_outliers,
)
from nanogpt_kit.sweep.report.findings import trial_value
from nanogpt_kit.sweep.report.series import best_color, series_of
from nanogpt_kit.sweep.study.summary import SweepSummary, TrialSummary

MAX_TRIALS = 2_000  # trials in a figure
MAX_SEED_DOTS = 4_000  # seeds of trials in a figure
AIR = 0.06  # of the range of values, above and below it
XOf = Callable[[TrialSummary], float | None]  # position of a trial on the horizontal axis; None: not in the figure


def trial_index(trial: TrialSummary) -> float:
    """The index of a trial as its position on the horizontal axis."""
    return trial.index


def mark_trials(
    figure: go.Figure, trials: Sequence[TrialSummary], name: str, marker: Mapping[str, Any], x_of: XOf
) -> None:
    """Adds a dot for each trial."""
    drawn = evenly_spaced(trials, MAX_TRIALS)
    points = [(x_of(trial) or 0.0, trial_value(trial)) for trial in drawn]
    add_dots(figure, points, [trial.index for trial in drawn], name, marker)


def mark_complete(figure: go.Figure, summary: SweepSummary, x_of: XOf, with_seeds: bool = False) -> None:
    """Adds a dot for each complete trial, in the colour of its branch; the mean of several seeds is a diamond.

    `with_seeds` adds a small dot for each seed.
    """
    placed = [trial for trial in summary.complete_trials() if x_of(trial) is not None]
    has_seeds = with_seeds and any(len(trial.values) > 1 for trial in placed)
    for series in series_of(summary, evenly_spaced(placed, MAX_TRIALS)):
        marker = {"color": series.color, "symbol": "diamond" if has_seeds else series.symbol, "size": 8}
        what = "mean of its seeds" if has_seeds else "complete"
        if has_seeds:
            mark_seeds(figure, series.trials, series.name or "one seed", series.color, x_of)
        mark_trials(
            figure,
            series.trials,
            f"{series.name}, mean" if series.name and has_seeds else series.name or what,
            marker,
            x_of,
        )


def mark_seeds(figure: go.Figure, trials: Sequence[TrialSummary], name: str, color: str, x_of: XOf) -> None:
    """Adds a small dot for each seed of each trial."""
    dots: list[tuple[int, Point]] = [
        (trial.index, (x_of(trial) or 0.0, value)) for trial in trials for value in trial.values
    ]
    drawn = evenly_spaced(dots, MAX_SEED_DOTS)
    marker = {"color": color, "size": 5, "opacity": 0.55}
    add_dots(figure, [point for _, point in drawn], [index for index, _ in drawn], f"{name}, seeds", marker)


def mark_incomparable(figure: go.Figure, summary: SweepSummary, x_of: XOf) -> None:
    """Adds crosses for trials without a comparable value: a pruned one has it after fewer tokens, others have none."""
    groups = {
        "pruned": (FAINT, [trial for trial in summary.trials if trial.is_pruned]),
        "no result": (LOST, [trial for trial in summary.trials if trial.has_no_result]),
    }
    for name, (color, trials) in groups.items():
        placed = [trial for trial in trials if x_of(trial) is not None]
        points = {trial.index: x_of(trial) or 0.0 for trial in evenly_spaced(placed, MAX_TRIALS)}
        add_crosses_above(figure, points, name, color)


def mark_best(figure: go.Figure, summary: SweepSummary, x_of: XOf) -> None:
    """Adds a star for the best trial."""
    best = summary.best()
    at = x_of(best) if best is not None else None
    if best is not None and at is not None:
        outline = {"width": 1, "color": "white"}
        star = {"color": best_color(summary, best), "symbol": "star", "size": 14, "line": outline}
        add_dots(figure, [(at, trial_value(best))], [best.index], f"best, trial {best.index}", star)


def limit_values(figure: go.Figure, summary: SweepSummary, with_seeds: bool = False) -> None:
    """Gives the vertical axis the range of all complete trials, so that figures beside each other have the same one.

    Values far off on the bad side are outside; a double click shows them.
    """
    values = [trial_value(trial) for trial in summary.complete_trials()]
    if with_seeds:
        values += [value for trial in summary.complete_trials() for value in trial.values]
    if not values:
        return
    low, high = range_without_outliers(values, summary.sign) or (min(values), max(values))
    air = AIR * (high - low) or max(1e-3 * abs(high), 1e-6)
    figure.update_layout(yaxis={"range": [low - air, high + air]})
