"""The values by seed that the verdict of a sweep is made from: of fresh seeds, or of the search itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass

from nanogpt_kit.comparison.judgement import pair_by_seed, separate_failures
from nanogpt_kit.comparison.verdicts import Differences
from nanogpt_kit.sweep.study.records import SeedsLook
from nanogpt_kit.sweep.study.summary import SweepSummary

MIN_PAIRS = 2  # fewer have no spread

Pair = tuple[int, int]  # indices of a trial and of the one that it is compared with


@dataclass(frozen=True)
class SeedValues:
    """The values that decide, by trial and seed, and the seeds that failed. A value that is not finite has failed."""

    values: Mapping[int, Mapping[int, float]]
    failed: Mapping[int, Set[int]]
    look: int = 1  # number of this judgement

    @classmethod
    def of(
        cls, values: Mapping[int, Mapping[int, float]], failed: Mapping[int, Collection[int]], look: int = 1
    ) -> SeedValues:
        finite, lost = separate_failures([*values.values()], [failed.get(index, ()) for index in values])
        return cls(dict(zip(values, finite, strict=True)), dict(zip(values, lost, strict=True)), look)

    def differences(self, pair: Pair) -> Differences:
        """Of the seeds of both trials."""
        contender, base = pair
        return pair_by_seed(self.values[base], self.values[contender], {*self.failed[base]}, {*self.failed[contender]})


def fresh_values(summary: SweepSummary) -> SeedValues | None:
    """Of the confirmed trials; None where they make too few pairs."""
    look = current_look(summary)
    if look is None or summary.confirmation is None:
        return None
    return SeedValues.of(
        {trial.index: trial.by_seed for trial in summary.confirmed},
        {trial.index: trial.failed for trial in summary.confirmed},
        look_number(summary.confirmation.looks, look),
    )


def current_look(summary: SweepSummary) -> SeedsLook | None:
    """What a verdict on the fresh seeds would look at now; None where they make too few pairs.

    Only a confirmation that is finished is judged as a whole: judging each trial as soon as its seeds have ended would
    be a further first look at each of them.
    """
    state = summary.confirmation
    if state is None:
        return None
    if state.is_finished:
        return SeedsLook(count=len(state.seeds))
    ended = {trial.index: {*trial.by_seed, *trial.failed} for trial in summary.confirmed}
    first = ended.pop(0, set())
    pairs = max((len(first & seeds) for seeds in ended.values()), default=0)
    before = (look for look in state.looks if look.count == pairs)
    return next(before, SeedsLook(count=pairs, is_whole=False)) if pairs >= MIN_PAIRS else None


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
