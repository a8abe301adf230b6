"""The values by seed that the verdict of a sweep is made from: of fresh seeds, or of the search itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nanogpt_kit.comparison.judgement import pair_by_seed, separate_failures
from nanogpt_kit.comparison.verdicts import Differences
from nanogpt_kit.sweep.study.confirmation import ConfirmedTrial
from nanogpt_kit.sweep.study.records import SeedsLook
from nanogpt_kit.sweep.study.summary import SweepSummary

MIN_PAIRS = 2  # fewer have no spread

Pair = tuple[int, int]  # indices of a trial and of the one that it is compared with


@dataclass(frozen=True)
class SeedValues:
    """The values that decide, by trial and seed."""

    values: Mapping[int, Mapping[int, float]]
    failed: Mapping[int, Sequence[int]]  # seeds
    look: int = 1  # number of this judgement

    def differences(self, pair: Pair) -> Differences:
        """Of the seeds of both trials."""
        contender, base = pair
        values = [self.values[base], self.values[contender]]
        finite, failed = separate_failures(values, [self.failed.get(base, ()), self.failed.get(contender, ())])
        return pair_by_seed(finite[0], finite[1], failed[0], failed[1])


def fresh_values(summary: SweepSummary) -> SeedValues | None:
    """Of the trials that have ended with every fresh seed; where no two have, of all, if they have enough pairs."""
    look = current_look(summary)
    if look is None or summary.confirmation is None:
        return None
    trials = whole_trials(summary) or summary.confirmed
    return SeedValues(
        {trial.index: trial.by_seed for trial in trials},
        {trial.index: trial.failed for trial in trials},
        look_number(summary.confirmation.looks, look),
    )


def current_look(summary: SweepSummary) -> SeedsLook | None:
    """What a verdict on the fresh seeds would look at now; None where they make too few pairs."""
    if summary.confirmation is None:
        return None
    if whole_trials(summary):
        return SeedsLook(count=len(summary.confirmation.seeds))
    by_index = {trial.index: trial.by_seed for trial in summary.confirmed}
    first = by_index.pop(0, {})
    pairs = max((len(first.keys() & values.keys()) for values in by_index.values()), default=0)
    before = (look for look in summary.confirmation.looks if look.count == pairs)
    return next(before, SeedsLook(count=pairs, is_whole=False)) if pairs >= MIN_PAIRS else None


def whole_trials(summary: SweepSummary) -> list[ConfirmedTrial]:
    """The trials that have ended with every fresh seed; none where they make no pair (with trial 0 if confirmed)."""
    whole = [trial for trial in summary.confirmed if has_all_seeds(summary, trial.index)]
    is_paired = not has_first(summary) or any(trial.index == 0 for trial in whole)
    return whole if is_paired and len(whole) > 1 else []


def has_first(summary: SweepSummary) -> bool:
    """Whether trial 0 is confirmed."""
    return summary.confirmation is not None and 0 in summary.confirmation.trials


def has_all_seeds(summary: SweepSummary, index: int) -> bool:
    """Whether a trial has ended with every fresh seed, also where some of them failed."""
    assert summary.confirmation is not None, "asked of its trials only"
    return summary.fresh_seeds.get(index, 0) >= len(summary.confirmation.seeds)


def look_number(looks: Sequence[SeedsLook], look: SeedsLook) -> int:
    """The number of a look, which decides how wide its intervals are; the same seeds again are the same look.

    The first number belongs to the first look at all seeds, also where one at some of them came earlier: who continues
    a confirmation that a budget has ended has the interval of a first look.
    """
    looks = looks if look in looks else [*looks, look]
    first = next((one for one in looks if one.is_whole), None)
    return 1 if look == first else 2 + [one for one in looks if one != first].index(look)
