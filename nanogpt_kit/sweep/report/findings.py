"""What a reader of a sweep's report should know before its numbers, as sentences."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution

from nanogpt_kit.report.page import first_characters, format_number
from nanogpt_kit.sweep.study.branches import Branch
from nanogpt_kit.sweep.study.summary import ENDED, STATES, SweepSummary, TrialSummary
from nanogpt_kit.sweep.study.warmup import most_compared, warmup_warning

EDGE_FRACTION = 0.05  # of a range: if the best trial is this near to its end, a better value may be outside
UNEQUAL_FRACTION = 0.1  # of the trials of the largest branch: by which another one may have fewer
PRUNABLE_TRIALS = 10  # complete trials, after which a pruner that pruned none of them is not of use
MANY_WITHOUT_RESULT = 0.1  # fraction of the ended trials
MAX_REASONS = 3  # that are shown
CAUSE_ORDER = ("complete", "pruned", "oom", "not_finite", "refused", "died", "lost_rank", "error", *STATES[2:])
Ranges = Mapping[str, BaseDistribution]  # by the names that Optuna has for parameters


def parameter_ranges(study: optuna.Study) -> dict[str, BaseDistribution]:
    ranges: dict[str, BaseDistribution] = {}
    for trial in study.get_trials(deepcopy=False):
        ranges.update(trial.distributions)
    return ranges


def has_overlapping_trials(study: optuna.Study) -> bool:
    """Whether two trials that ended ran at the same time: of several workers, or of several controllers."""
    times = [
        (trial.datetime_start, trial.datetime_complete)
        for trial in study.get_trials(deepcopy=False)
        if trial.datetime_start is not None and trial.datetime_complete is not None
    ]
    times.sort()
    return any(start < end for (_, end), (start, _) in itertools.pairwise(times))


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


def ended_counts(summary: SweepSummary) -> dict[str, int]:
    """The number of trials as the figures call them: one that ran out of memory has no result, and is not pruned."""
    without = [trial for trial in summary.trials if trial.has_no_result]
    counts = dict(summary.counts())
    for trial in without:
        counts[trial.state] -= 1
    return counts | {"without a result": len(without)}


def edge_side(value: float, distribution: BaseDistribution) -> str:
    """ "lower" or "upper" where a number is within EDGE_FRACTION of that end of its range; otherwise empty."""
    fraction = fraction_of_range(value, distribution)
    if fraction is None or EDGE_FRACTION < fraction < 1 - EDGE_FRACTION:
        return ""
    return "lower" if fraction <= EDGE_FRACTION else "upper"


# Warnings


def warnings_about(summary: SweepSummary, ranges: Ranges) -> Iterator[str]:
    complete = summary.ranked_trials()
    yield from warmup_warnings(summary)
    yield from unequal_branches_warnings(summary)
    yield from edge_warnings(summary, ranges)
    yield from no_result_warnings(summary)
    if len(complete) > 1 and all(trial.value == complete[0].value for trial in complete):
        yield f"All {len(complete)} complete trials have the same {summary.options.metric}: none of them is the best."
    elif len(complete) > 1 and not summary.confirmed:
        which = "the best, trial 0 and the best of each branch" if summary.branches else "only the best and trial 0"
        yield (
            f"The value of the best of {len(complete)} trials is optimistic, since chance helped to choose it. Set "
            f"confirm in [sweep], for example to 3, and run the sweep again: it runs {which}, with fresh seeds."
        )
    if (
        summary.options.pruner != "none"
        and len(complete) >= PRUNABLE_TRIALS
        and not any(trial.is_pruned for trial in summary.trials)
    ):
        yield (
            f"The pruner {summary.options.pruner!r} pruned no trial. Evaluate more often or lower min_tokens, so that "
            "it can; or set it to none."
        )


def warmup_warnings(summary: SweepSummary) -> Iterator[str]:
    """Warns where the pruner first looks at trials whose learning rate still rises."""
    compared = most_compared(summary.options, summary.count, len(summary.branches))
    text = warmup_warning(summary.options, summary.trial_tokens, summary.trial_steps, compared)
    if text:
        yield f"The pruner {text}."


def unequal_branches_warnings(summary: SweepSummary) -> Iterator[str]:
    """Warns where the sampler tried one branch more often than another."""
    counts = {branch.label: len(summary.trials_of(branch)) for branch in summary.branches}
    most, least = max(counts.values(), default=0), min(counts.values(), default=0)
    if summary.options.allocate == "equal" or most - least <= max(1.0, UNEQUAL_FRACTION * most):
        return
    shown = ", ".join(f"{label}: {count}" for label, count in counts.items())
    remedy = ' To compare them, set allocate = "equal" in [sweep] and give the experiment another name.'
    if summary.options.sampler == "grid":  # it tries every point, and a branch may have fewer
        remedy = ""
    yield (
        f"The sampler gave the branches unequal numbers of trials ({shown}), and the best of more trials is expected "
        f"to be better by chance alone.{remedy}"
    )


def edge_warnings(summary: SweepSummary, ranges: Ranges) -> Iterator[str]:
    """Warns of ranges that should be wider: the best trial, or the best of a branch, is near one of their ends."""
    best = summary.best()
    if not summary.branches and best is not None:
        yield from edges_of("The best trial", best, summary.ranked_trials(), ranges)
    for branch in summary.branches:
        first = summary.best_of(branch)
        if first is not None:
            yield from edges_of(f"The best trial with {branch.label}", first, ranked_in(summary, branch), ranges)


def ranked_in(summary: SweepSummary, branch: Branch) -> list[TrialSummary]:
    return [trial for trial in summary.ranked_trials() if branch.has(trial.params)]


def edges_of(title: str, best: TrialSummary, complete: Sequence[TrialSummary], ranges: Ranges) -> Iterator[str]:
    """`complete` are the trials that `best` is the best of, the best first."""
    for name, value in best.params.items():
        side = edge_side(value, ranges[name]) if name in ranges else ""
        if not side:
            continue
        having = [trial for trial in complete if name in trial.params]
        top = having[: max(3, len(having) // 10)]
        near = sum(edge_side(trial.params[name], ranges[name]) == side for trial in top)
        also = f" The same is true of {near} of the best {len(top)}." if len(having) > len(top) and near > 1 else ""
        bound = getattr(ranges[name], "low" if side == "lower" else "high")
        yield (
            f"{title} has {name.split('@')[0]} = {format_number(value)}, at the {side} edge of its range "
            f"({format_number(bound)}).{also} Better values may be outside: widen the range on that side, if the "
            "option allows it."
        )


def no_result_warnings(summary: SweepSummary) -> Iterator[str]:
    """Warns if many trials gave no result, or if some failed for a reason other than their values."""
    ended = [trial for trial in summary.trials if trial.state in ENDED]
    without = [trial for trial in ended if trial.has_no_result]
    failed = [trial for trial in without if trial.state == "failed"]
    if not without or (len(without) < MANY_WITHOUT_RESULT * len(ended) and not failed):
        return
    counts = Counter(trial.cause or trial.state for trial in without)
    causes = ", ".join(f"{count} {cause_text(cause)}" for cause, count in counts.most_common())
    reasons = Counter(trial.reason for trial in without if trial.reason).most_common(MAX_REASONS)
    shown = "; ".join(first_characters(reason, 160) + f" ({count}x)" * (count > 1) for reason, count in reasons)
    message = f"{len(without):,} of {len(ended):,} ended trials gave no result: {causes}."
    yield message + (f" Most often: {shown}" if shown else "")
