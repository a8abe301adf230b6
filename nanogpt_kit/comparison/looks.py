"""Looks: how often the arms of a question were judged, also by other questions that compared a pair of them."""

from __future__ import annotations

import time
from collections.abc import Iterable

from nanogpt_kit.comparison.question import Question
from nanogpt_kit.comparison.record import Comparison, Look

Seeds = frozenset[int]


def count_look(
    question: Question, before: Comparison | None, others: Iterable[Comparison], seeds: tuple[int, ...], values: str
) -> tuple[tuple[Look, ...], int]:
    """All looks of the question with this one, and the number of this one, which decides how wide its intervals are.

    `before` is the record of the question, and `others` are all records. What was judged before, with the same values,
    is not a new look. A look of another question at the same two arms counts where it came earlier and saw other seeds.
    One pair cannot decide anything, so that a look at one does not count.
    """
    looks = before.looks if before else ()
    index = next((i for i, look in enumerate(looks) if (look.seeds, look.values) == (seeds, values)), len(looks))
    if index == len(looks):
        looks = (*looks, Look(seeds=seeds, values=values, time=time.time()))
    own = [look for look in looks[: index + 1] if len(look.seeds) > 1]
    elsewhere = seeds_seen_elsewhere(question, before, others, until=looks[index].time)
    return looks, max(1, len(own) + len(elsewhere - {frozenset(look.seeds) for look in own}))


def seeds_seen_elsewhere(
    question: Question, before: Comparison | None, others: Iterable[Comparison], until: float
) -> set[Seeds]:
    """The seeds of each look of other questions at two arms of this one, before the time `until`."""
    pairs = pairs_of([arm.configuration for arm in question.arms])
    return {
        frozenset(look.seeds)
        for other in others
        if other != before
        and (other.metric, other.direction) == (question.metric, question.direction)
        and other.results
        and pairs & pairs_of([arm.configuration for arm in other.arms])
        for look in other.looks
        if look.time < until and len(look.seeds) > 1
    }


def pairs_of(configurations: list[str]) -> set[frozenset[str]]:
    """The base with each contender, whichever of the two is the base; an arm that equals the base is left out."""
    base, *contenders = configurations
    return {frozenset((base, contender)) for contender in contenders if contender != base}
