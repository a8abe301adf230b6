"""Conclusions about a sweep as sentences: warnings, and what fresh seeds changed."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution

from nanogpt_kit.report.page import first_characters, format_number
from nanogpt_kit.sweep.study.confirmation import ConfirmedTrial
from nanogpt_kit.sweep.study.summary import STATES, SweepSummary, TrialSummary

EDGE_FRACTION = 0.05  # of a range: if the best trial is this near to its end, a better value may be outside
FEW_TRIALS = 10  # complete trials, below which importances are noise
MANY_WITHOUT_RESULT = 0.1  # fraction of the ended trials
MAX_REASONS = 3  # that are shown
CAUSE_ORDER = ("complete", "pruned", "oom", "not_finite", "refused", "died", "lost_rank", "error", *STATES[2:])
Ranges = Mapping[str, BaseDistribution]  # by the names that Optuna has for parameters


def parameter_ranges(study: optuna.Study) -> dict[str, BaseDistribution]:
    ranges: dict[str, BaseDistribution] = {}
    for trial in study.get_trials(deepcopy=False):
        ranges.update(trial.distributions)
    return ranges


def fraction_of_range(value: float, distribution: BaseDistribution) -> float | None:
    """The position of a number in its range, from 0 to 1, on the scale that it is sampled on. None for choices."""
    if isinstance(distribution, CategoricalDistribution) or distribution.single():
        return None
    low, high = distribution.low, distribution.high  # type: ignore[attr-defined]
    if distribution.log:  # type: ignore[attr-defined]
        return math.log(value / low) / math.log(high / low)
    return float((value - low) / (high - low))


def trial_value(trial: TrialSummary) -> float:
    assert trial.value is not None, "only of trials that have a value"
    return trial.value


def cause_text(cause: str) -> str:
    return {"oom": "out of memory"}.get(cause, cause.replace("_", " "))


def outcome_counts(summary: SweepSummary) -> dict[str, int]:
    """The number of trials by cause or, if they have not ended, by state; complete ones first."""
    counts = Counter(trial.cause or trial.state for trial in summary.trials)
    counts["waiting"] += summary.counts()["waiting"]
    return {name: counts[name] for name in dict.fromkeys((*CAUSE_ORDER, *counts)) if counts[name]}


# Warnings


def warnings_about(summary: SweepSummary, ranges: Ranges) -> Iterator[str]:
    complete = summary.ranked_trials()
    best = summary.best()
    if best is not None:
        yield from edge_warnings(best, complete, ranges)
    yield from no_result_warnings(summary)
    if len(complete) > 1 and all(trial.value == complete[0].value for trial in complete):
        yield f"All {len(complete)} complete trials have the same {summary.options.metric}: none of them is the best."
    elif len(complete) > 1 and not summary.confirmed:
        yield (
            f"The value of the best of {len(complete)} trials is optimistic, since chance helped to choose it. Set "
            "confirm in [sweep], for example to 3, and run the sweep again: it runs only the best, with fresh seeds."
        )
    if 0 < len(complete) < FEW_TRIALS:
        are_complete = "trial is" if len(complete) == 1 else "trials are"
        yield f"Only {len(complete)} {are_complete} complete: too few to know which values matter."
    if (
        summary.options.pruner != "none"
        and len(complete) >= FEW_TRIALS
        and not any(trial.is_pruned for trial in summary.trials)
    ):
        yield (
            f"The pruner {summary.options.pruner!r} pruned no trial. Evaluate more often or lower min_tokens, so that "
            "it can; or set it to none."
        )


def edge_warnings(best: TrialSummary, complete: list[TrialSummary], ranges: Ranges) -> Iterator[str]:
    """Warns of ranges that should be wider, since the best trial is near one of their ends."""
    for name, value in best.params.items():
        fraction = fraction_of_range(value, ranges[name]) if name in ranges else None
        if fraction is None or EDGE_FRACTION < fraction < 1 - EDGE_FRACTION:
            continue
        side, bound = ("lower", "low") if fraction <= EDGE_FRACTION else ("upper", "high")
        having = [trial for trial in complete if name in trial.params]
        top = having[: max(3, len(having) // 10)]
        fractions = [fraction_of_range(trial.params[name], ranges[name]) or 0.0 for trial in top]
        near = sum(abs(other - round(fraction)) <= EDGE_FRACTION for other in fractions)
        also = f" The same is true of {near} of the best {len(top)}." if len(having) > len(top) and near > 1 else ""
        yield (
            f"The best trial has {name} = {format_number(value)}, at the {side} edge of its range "
            f"({format_number(getattr(ranges[name], bound))}).{also} Better values may be outside: widen the range on "
            "that side, if the option allows it."
        )


def no_result_warnings(summary: SweepSummary) -> Iterator[str]:
    """Warns if many trials gave no result, or if some failed for a reason other than their values."""
    ended = [trial for trial in summary.trials if trial.state in ("complete", "pruned", "failed")]
    without = [trial for trial in ended if trial.has_no_result]
    failed = [trial for trial in without if trial.state == "failed"]
    if not without or (len(without) < MANY_WITHOUT_RESULT * len(ended) and not failed):
        return
    counts = Counter(trial.cause or trial.state for trial in without)
    causes = ", ".join(f"{count} {cause_text(cause)}" for cause, count in counts.most_common())
    reasons = Counter(trial.reason for trial in without if trial.reason).most_common(MAX_REASONS)
    shown = "; ".join(first_characters(reason, 160) + f" ({count}x)" * (count > 1) for reason, count in reasons)
    message = f"{len(without)} of {len(ended)} ended trials ({len(without) / len(ended):.0%}) gave no result: {causes}."
    yield message + (f" Most often: {shown}" if shown else "")


# What fresh seeds changed


def confirmation_verdict(summary: SweepSummary) -> Iterator[str]:
    """How fresh seeds change the ranking of the sweep."""
    ranks = {trial.index: rank for rank, trial in enumerate(summary.ranked_trials())}
    before = sorted((trial.index for trial in summary.confirmed if trial.index in ranks), key=ranks.__getitem__)
    after = [trial.index for trial in summary.confirmed]
    if not before:
        return
    if before == after:
        yield "The fresh seeds confirm the ranking of the sweep."
    elif before[0] == after[0]:
        yield f"The fresh seeds keep trial {after[0]} in first place and change the ranking behind it."
    else:
        rank = ordinal(after.index(before[0]) + 1)
        yield (
            f"The fresh seeds change the ranking: trial {after[0]} is now the best, and trial {before[0]}, the best of "
            f"the sweep, is {rank} of {len(after)}."
        )
    if len(summary.confirmed) > 1:
        yield from separation_verdict(*summary.confirmed[:2])


def separation_verdict(first: ConfirmedTrial, second: ConfirmedTrial) -> Iterator[str]:
    """Whether the fresh seeds separate the best two trials."""
    if min(len(first.values), len(second.values)) < 2:
        return
    gap = abs(first.mean - second.mean)
    error = math.sqrt(sum(statistics.variance(trial.values) / len(trial.values) for trial in (first, second)))
    verdict = "; these seeds do not separate the two" if gap <= 2 * error else ""
    yield (
        f"The best two, trials {first.index} and {second.index}, differ by {format_number(gap, 3)}, with a "
        f"standard error of {format_number(error, 3)}{verdict}."
    )


def ordinal(rank: int) -> str:
    return f"{rank}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(rank, 'th') }"
