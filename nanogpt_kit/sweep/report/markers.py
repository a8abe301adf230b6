"""Markers of trials in the figures of a report: complete, pruned, without a result, and the best. Needs plotly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]

from nanogpt_kit.report.plots import BEST, FAINT, LOST, add_crosses_above, add_dots, evenly_spaced
from nanogpt_kit.sweep.report.findings import trial_value
from nanogpt_kit.sweep.study.summary import SweepSummary, TrialSummary

MAX_TRIALS = 2_000  # trials in a figure
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
        star = {"color": BEST, "symbol": "star", "size": 14, "line": {"width": 1, "color": "white"}}
        add_dots(figure, [(at, trial_value(best))], [best.index], f"best, trial {best.index}", star)
