"""Effects in a full factorial: of each level of each factor, and of two together; those of three are left out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence

from nanogpt_kit.comparison.intervals import ROUNDING
from nanogpt_kit.comparison.judgement import failure_text, separate_failures
from nanogpt_kit.comparison.record import Effect
from nanogpt_kit.comparison.verdicts import Differences, judge_differences

Cell = tuple[int, ...]  # the index of the level of each factor
Contrast = dict[Cell, float]  # weights of the cells' values


def judge_effects(
    factors: Sequence[tuple[str, Sequence[str]]],
    cells: Mapping[Cell, Mapping[int, float]],
    direction: str,
    looks: int = 1,
    failed: Mapping[Cell, Collection[int]] | None = None,
) -> list[Effect]:
    """The effects of all levels but the first of each factor, then their interactions.

    `factors` has a name and the levels of each, and `cells` {seed: value} for each combination. An effect is the
    difference that a level makes, on average over all levels of the other factors; an interaction is how much larger
    the effect of one level is with that of another factor than with its first one. Each is computed for every seed
    that has a value in all cells. Holm's correction is over all effects.
    """
    names = [*itertools.product(*(range(len(levels)) for _, levels in factors))]
    lost_before = [(failed or {}).get(cell, ()) for cell in names]
    finite, lost = separate_failures([cells.get(cell, {}) for cell in names], lost_before)
    values, failures = dict(zip(names, finite, strict=True)), dict(zip(names, lost, strict=True))
    seeds = tuple(sorted(set.intersection(*(set(cell) for cell in finite))))
    chosen = [*choose_levels(factors)]
    contrasts = [contrast_by_seed(effect_weights(names, levels), values, failures, seeds) for levels in chosen]
    return [
        Effect(
            factors=tuple(factors[factor][0] for factor in levels),
            levels=tuple(factors[factor][1][level] for factor, level in levels.items()),
            **dict(judgement),
        )
        for levels, judgement in zip(chosen, judge_differences(contrasts, direction, looks), strict=True)
    ]


def choose_levels(factors: Sequence[tuple[str, Sequence[str]]]) -> Iterator[dict[int, int]]:
    """{factor: level} of each effect, by index: one factor, or two."""
    for order in (1, 2):
        for chosen in itertools.combinations(range(len(factors)), order):
            for levels in itertools.product(*(range(1, len(factors[factor][1])) for factor in chosen)):
                yield dict(zip(chosen, levels, strict=True))


def effect_weights(cells: Sequence[Cell], levels: Mapping[int, int]) -> Contrast:
    """The cells of an effect: each factor has the level or its first one, with opposite signs."""
    signs = {
        cell: math.prod((cell[factor] == level) - (cell[factor] == 0) for factor, level in levels.items())
        for cell in cells
    }
    count = sum(sign != 0 for sign in signs.values()) / 2 ** len(levels)
    return {cell: sign / count for cell, sign in signs.items() if sign}


def contrast_by_seed(
    weights: Contrast,
    values: Mapping[Cell, Mapping[int, float]],
    failures: Mapping[Cell, Collection[int]],
    seeds: tuple[int, ...],
) -> Differences:
    lost = {
        sign: {seed for cell, weight in weights.items() if weight * sign > 0 for seed in failures[cell]}
        for sign in (1, -1)
    }
    largest = max((abs(values[cell][seed]) for cell in weights for seed in seeds), default=0.0)
    return Differences(
        seeds,
        tuple(math.fsum(weight * values[cell][seed] for cell, weight in weights.items()) for seed in seeds),
        rounding=ROUNDING * largest,
        can_be_better=lost[1] <= lost[-1],
        can_be_worse=lost[-1] <= lost[1],
        reason=failure_text("a cell", {seed for cell in failures.values() for seed in cell}),
        sides="all cells",
    )
