"""Which source each window comes from: after every window, each has its proportion of them, to within one window.

Source: Balinski & Young 1975, "The Quota Method of Apportionment", American Mathematical Monthly 82 (7).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property
from math import gcd, lcm

import numpy as np

MAX_PERIOD = 100_000  # windows: weights with five decimals are exact; their order is found in 0.2 s


def whole_weights(weights: Sequence[float | Fraction]) -> tuple[int, ...]:
    """Whole numbers in the ratio of the weights, with a sum of at most MAX_PERIOD.

    They are exact where such numbers exist for the weights as they are written in decimals. Else each is rounded to a
    multiple of 1 / MAX_PERIOD of the sum, up or down, and up to one such part where it is smaller.
    """
    exact = [Fraction(str(weight)) for weight in weights]
    unit = lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * unit) for weight in exact]
    divisor = gcd(*whole)
    if sum(whole) <= MAX_PERIOD * divisor:
        return tuple(weight // divisor for weight in whole)
    ideal = [weight * MAX_PERIOD / sum(exact) for weight in exact]
    rounded = [max(int(part), 1) if part else 0 for part in ideal]
    by_remainder = sorted(range(len(ideal)), key=lambda i: ideal[i] - rounded[i])
    while sum(rounded) < MAX_PERIOD:
        rounded[by_remainder.pop()] += 1
    return tuple(rounded)


class QuotaSequence:
    """The source of each window, counted from 0 over the whole run: a period of as many windows as the weights' sum.

    With n windows, a source of weight w has at least floor and at most ceil of n w / (the sum of all weights).
    """

    def __init__(self, weights: Sequence[int]) -> None:
        self.weights = tuple(weights)
        self.period = sum(weights)

    @cached_property
    def sources(self) -> np.ndarray:
        """(period,) the index of each window's source."""
        counts = [0] * len(self.weights)
        sources = np.empty(self.period, np.int64)
        for n in range(self.period):
            chosen, most = -1, 0.0
            for source, weight in enumerate(self.weights):
                may_have_another = counts[source] * self.period < (n + 1) * weight
                if may_have_another and weight / (counts[source] + 1) > most:
                    chosen, most = source, weight / (counts[source] + 1)
            counts[chosen] += 1
            sources[n] = chosen
        return sources

    @cached_property
    def prefix_counts(self) -> np.ndarray:
        """(sources, period + 1) int64: of the first n windows of a period, those of each source."""
        return np.array([np.cumsum(self.sources == i) for i in range(len(self.weights))])

    def of_windows(self, first: int, count: int) -> np.ndarray:
        """(count,) the index of the source of window `first` and of those after it."""
        return self.sources[np.arange(first, first + count) % self.period]

    def windows_before(self, source: int, n: int) -> int:
        """How many of the first `n` windows come from a source."""
        periods, rest = divmod(n, self.period)
        return periods * self.weights[source] + (int(self.prefix_counts[source, rest - 1]) if rest else 0)
