"""Judgement of arms: whether each contender is better or worse than the base, or whether its runs are undecided."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from nanogpt_kit.comparison.intervals import ROUNDING, Sample
from nanogpt_kit.comparison.numbers import joined_names
from nanogpt_kit.comparison.record import Result
from nanogpt_kit.comparison.verdicts import Differences, is_improvement, join_sentences, judge_differences

LARGEST = 1e100  # size of a value; a larger loss has diverged, and its square overflows


def judge_arms(
    values: Sequence[Mapping[int, float]],
    direction: str,
    looks: int = 1,
    failed: Sequence[Collection[int]] = (),
) -> list[Result]:
    """One result for each contender, in their order.

    `values` has {seed: value} for each arm, the base first. `looks` counts the judgements of this question, this one
    included. `failed` has the seeds of each arm whose runs failed, or is empty; a value that is not finite has failed.
    An arm that failed with a seed with which the other did not is not called the better one.
    """
    finite, lost = separate_failures(values, failed or [()] * len(values))
    pairs = [pair_by_seed(finite[0], finite[arm], lost[0], lost[arm]) for arm in range(1, len(values))]
    judgements = judge_differences(pairs, direction, looks)
    results = []
    for arm, (pair, judgement) in enumerate(zip(pairs, judgements, strict=True), 1):
        own = Sample.of([*finite[arm].values()]) if finite[arm] else None
        wins = sum(is_improvement(difference, direction) for difference in pair.values)
        mean, sd = (own.mean, own.sd) if own else (None, None)
        results.append(Result(arm=arm, mean=mean, sd=sd, wins=wins, **dict(judgement)))
    return results


def separate_failures(
    values: Sequence[Mapping[int, float]], failed: Sequence[Collection[int]]
) -> tuple[list[dict[int, float]], list[set[int]]]:
    """For each arm, the values that count, and the seeds whose runs failed."""
    finite, lost = [], []
    for arm, seeds in zip(values, failed, strict=True):
        finite.append({seed: value for seed, value in arm.items() if seed not in seeds and abs(value) <= LARGEST})
        lost.append({*seeds, *(arm.keys() - finite[-1].keys())})
    return finite, lost


def pair_by_seed(
    base: Mapping[int, float], contender: Mapping[int, float], base_failed: set[int], contender_failed: set[int]
) -> Differences:
    """Contender minus base for the seeds of both."""
    seeds = tuple(sorted(base.keys() & contender.keys()))
    return Differences(
        seeds,
        tuple(contender[seed] - base[seed] for seed in seeds),
        rounding=ROUNDING * max((max(abs(base[seed]), abs(contender[seed])) for seed in seeds), default=0.0),
        can_be_better=contender_failed <= base_failed,
        can_be_worse=base_failed <= contender_failed,
        reason=join_sentences(failure_text("the contender", contender_failed), failure_text("the base", base_failed)),
    )


def failure_text(arm: str, seeds: Collection[int]) -> str:
    """For example `the base failed with seeds 3 and 5`; empty if it failed with none."""
    if not seeds:
        return ""
    names = joined_names(map(str, sorted(seeds)))
    return f"{arm} failed with {'seed' if len(seeds) == 1 else 'seeds'} {names}"
