"""The trials of a figure in groups, each with its colour: one for each branch, or all together. Needs plotly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nanogpt_kit.report.labels import short_labels
from nanogpt_kit.report.plots import BEST, FAINT, PLAIN, plotly_label, series_color, series_dash, series_symbol
from nanogpt_kit.sweep.study.branches import branch_index
from nanogpt_kit.sweep.study.summary import SweepSummary, TrialSummary


@dataclass(frozen=True)
class Series:
    """Trials that have one colour."""

    name: str  # of a branch, as HTML; empty where there are no branches
    color: str
    symbol: str
    dash: str
    trials: Sequence[TrialSummary]


def index_of_branch(summary: SweepSummary, trial: TrialSummary) -> int | None:
    """None where there are no two branches, or before the trial had values."""
    if len(summary.branches) < 2:
        return None
    return branch_index(summary.branches, trial.params)


def series_of(summary: SweepSummary, trials: Sequence[TrialSummary]) -> Iterator[Series]:
    """The trials by branch, without branches that have none of them; all of them if there are no two branches."""
    labels = short_labels([branch.label for branch in summary.branches])
    by_branch: dict[int | None, list[TrialSummary]] = {}
    for trial in trials:
        by_branch.setdefault(index_of_branch(summary, trial), []).append(trial)
    if None in by_branch:
        yield Series("", PLAIN, "circle", "solid", by_branch[None])
    for at, branch in enumerate(summary.branches):
        if at in by_branch:
            name = plotly_label(labels[branch.label])
            yield Series(name, series_color(at), series_symbol(at), series_dash(at), by_branch[at])


def best_color(summary: SweepSummary, best: TrialSummary) -> str:
    """The colour of the best trial: that of its branch, or BEST."""
    at = index_of_branch(summary, best)
    return BEST if at is None else series_color(at)


def running_best_color(summary: SweepSummary) -> str:
    """The colour of lines that join the best trials of all branches."""
    return BEST if len(summary.branches) < 2 else FAINT
