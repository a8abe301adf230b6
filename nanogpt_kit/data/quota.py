"""Which source each window comes from: after every window, each has its proportion of them, to within one window.

Source: Tijdeman 1980, "The Chairman Assignment Problem", Discrete Mathematics 32 (3).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from heapq import heapify, heappop, heappush
from math import gcd, lcm

import numpy as np

CHUNK_WINDOWS = 1 << 13  # whose sources are found at once: 2 microseconds for each window
NEAR_WINDOWS = 8 * CHUNK_WINDOWS  # that are found for a number in a message


def whole_weights(weights: Sequence[float | Fraction]) -> tuple[int, ...]:
    """The smallest whole numbers in the ratio of the weights, which are taken as they are written in decimals."""
    exact = [Fraction(str(weight)) for weight in weights]
    unit = lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * unit) for weight in exact]
    divisor = gcd(*whole)
    return tuple(weight // divisor for weight in whole)


class QuotaSequence:
    """The source of each window, counted from 0 over the whole run: a period of as many windows as the weights' sum.

    With n windows, a source of weight w has at least floor and at most ceil of n w / (the sum of all weights). So each
    window of a source has a first and a last place in the sequence. A place goes to the source whose next window has
    the nearest last place, of those whose next window has its first place there or before.

    Chunks are found from the beginning on, as far as they are asked for. The counts before each are kept.
    """

    def __init__(self, weights: Sequence[int]) -> None:
        repeats = max(1, CHUNK_WINDOWS // sum(weights))  # so that many windows are one slice of a chunk
        self.weights = tuple(weight * repeats for weight in weights)
        self.period = sum(self.weights)
        self.counts_before = {0: (0,) * len(self.weights)}  # of the chunks found so far: the windows of each source
        self.chunk = lru_cache(maxsize=4)(self._chunk)

    def _chunk(self, index: int) -> np.ndarray:
        """(at most CHUNK_WINDOWS,) the sources of the windows of a chunk of the period."""
        for n in range(max(self.counts_before), index):
            self._find(n)
        return self._find(index)

    def _find(self, index: int) -> np.ndarray:
        """As `_chunk`, where the counts before it are known."""
        weights, period, counts = self.weights, self.period, list(self.counts_before[index])
        first = index * CHUNK_WINDOWS
        sources = np.empty(min(CHUNK_WINDOWS, period - first), np.int64)
        waiting = [(count * period // weights[i], i) for i, count in enumerate(counts) if weights[i]]  # first place, i
        heapify(waiting)
        ready: list[tuple[int, int]] = []  # the place after the last one, i
        for n in range(len(sources)):
            while waiting and waiting[0][0] <= first + n:
                _, i = heappop(waiting)
                heappush(ready, (-(-(counts[i] + 1) * period // weights[i]), i))
            _, i = heappop(ready)
            sources[n] = i
            counts[i] += 1
            heappush(waiting, (counts[i] * period // weights[i], i))
        self.counts_before[index + 1] = tuple(counts)
        return sources

    def of_windows(self, first: int, count: int) -> np.ndarray:
        """(count,) the index of the source of window `first` and of those after it."""
        parts = []
        while count:
            index, at = divmod(first % self.period, CHUNK_WINDOWS)
            parts.append(self.chunk(index)[at : at + count])
            first, count = first + len(parts[-1]), count - len(parts[-1])
        return np.concatenate(parts)

    def windows_before(self, source: int, n: int) -> int:
        """How many of the first `n` windows come from a source."""
        periods, rest = divmod(n, self.period)
        index, at = divmod(rest, CHUNK_WINDOWS)
        within = np.count_nonzero(self.chunk(index)[:at] == source)
        return periods * self.weights[source] + self.counts_before[index][source] + int(within)

    def most_windows(self, source: int, n: int) -> int:
        """At most how many of the first `n` windows come from a source: that number, or one more where it is far."""
        if n % self.period < NEAR_WINDOWS:
            return self.windows_before(source, n)
        return -(-n * self.weights[source] // self.period)
