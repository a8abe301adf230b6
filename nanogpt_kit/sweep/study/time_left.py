"""The estimated time until a sweep has ended, its confirmation included."""

from __future__ import annotations

from nanogpt_kit.sweep.study.fresh_runs import most_confirmed
from nanogpt_kit.sweep.study.summary import SweepSummary


def seconds_left(summary: SweepSummary) -> float | None:
    """Estimated seconds left, with all workers and within sweep.max_seconds; None if no trial has ended."""
    options = summary.options
    ended = [trial.seconds for trial in summary.trials if trial.state in ("complete", "pruned") and trial.seconds]
    if not ended:
        return None
    mean = sum(ended) / len(ended)
    begun = [trial.seconds for trial in summary.trials if trial.state in ("running", "interrupted")]
    rest = sum(max(0.0, mean - seconds) for seconds in begun)
    left = summary.counts()["waiting"] * mean + rest + fresh_runs_left(summary) * run_seconds(summary, mean)
    if options.max_seconds is not None:
        left = min(left, max(0.0, options.max_seconds - summary.seconds))
    return left / options.workers


def fresh_runs_left(summary: SweepSummary) -> int:
    """The runs of the confirmation that have not ended, at most."""
    counts = summary.counts()
    planned = most_confirmed(summary.options, len(summary.branches), summary.count) * summary.options.confirm_seeds
    if not any(counts[state] for state in ("running", "interrupted", "waiting")):
        planned = len(trials_to_confirm(summary)) * summary.options.confirm_seeds
    return max(0, planned - sum(summary.fresh_seeds.values()))


def trials_to_confirm(summary: SweepSummary) -> set[int]:
    """The indices of the trials that the confirmation of an ended search runs again."""
    if not summary.options.confirm:
        return set()
    best = summary.ranked_trials()[: summary.options.confirm]
    first = [trial for trial in summary.complete_trials() if trial.index == 0]
    of_branches = [trial for branch in summary.branches if (trial := summary.best_of(branch)) is not None]
    return {trial.index for trial in (*best, *first, *of_branches)}


def run_seconds(summary: SweepSummary, mean: float) -> float:
    """Of a run with a fresh seed, which is not pruned; `mean` is of trials that may have been."""
    whole = [trial.seconds for trial in summary.complete_trials() if trial.seconds]
    return (sum(whole) / len(whole) if whole else mean) / summary.options.seeds
