"""The estimated time until a sweep has ended, its confirmation included."""

from __future__ import annotations

from nanogpt_kit.core.sections import Sweep
from nanogpt_kit.sweep.study.confirmation import most_confirmed
from nanogpt_kit.sweep.study.summary import SweepSummary


def seconds_left(summary: SweepSummary) -> float | None:
    """Estimated seconds left, with all workers and within the budgets; None if no trial has ended."""
    options = summary.options
    ended = [trial.seconds for trial in summary.trials if trial.state in ("complete", "pruned") and trial.seconds]
    if not ended:
        return None
    mean = sum(ended) / len(ended)
    begun = [trial.seconds for trial in summary.trials if trial.state in ("running", "interrupted")]
    rest = sum(max(0.0, mean - seconds) for seconds in begun)
    left = summary.counts()["waiting"] * mean + rest + fresh_runs_left(summary) * run_seconds(summary, mean)
    fresh = summary.confirmation
    tokens, spent = summary.tokens + (fresh.tokens if fresh else 0), summary.seconds + (fresh.seconds if fresh else 0.0)
    return within_budgets(left, options, tokens, spent) / options.workers


def within_budgets(left: float, options: Sweep, tokens: int, spent: float) -> float:
    """`left` seconds, or what the budgets leave after `spent` seconds of training on `tokens`."""
    if options.max_seconds is not None:
        left = min(left, options.max_seconds - spent)
    if options.max_tokens is not None and tokens:
        left = min(left, (options.max_tokens - tokens) * spent / tokens)
    return max(0.0, left)


def fresh_runs_left(summary: SweepSummary) -> int:
    """The runs of the confirmation that have not ended, at most."""
    options, counts, state = summary.options, summary.counts(), summary.confirmation
    if any(counts[name] for name in ("running", "interrupted", "waiting")):
        planned = most_confirmed(options, len(summary.branches), summary.count) * options.confirm_seeds
    else:
        planned = len(summary.to_confirm()) * options.confirm_seeds
    return max(0, max(planned, state.runs if state else 0) - (state.ended if state else 0))


def run_seconds(summary: SweepSummary, mean: float) -> float:
    """Of a run with a fresh seed, which is not pruned; `mean` is of trials that may have been."""
    whole = [trial.seconds for trial in summary.complete_trials() if trial.seconds]
    return (sum(whole) / len(whole) if whole else mean) / summary.options.seeds
