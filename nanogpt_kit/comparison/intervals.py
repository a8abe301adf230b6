"""Intervals and levels: of one difference, over several looks, and for several contenders (Holm)."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

ALPHA = 0.05  # probability that the first look calls equal arms different
LATER_ALPHA = 0.005  # the same of all later looks together
MAX_LOOKS = 30  # from here on the level stays; what it adds to LATER_ALPHA is below 1e-11 for each look
MAX_MORE_SEEDS = 1000
ROUNDING = 1e-12  # of a difference, relative to the values that it is made of


def look_alpha(look: int) -> float:
    """The probability that look 1, 2, ... calls equal arms different, where each earlier one was undecided."""
    assert look >= 1, "looks count from 1"
    return ALPHA if look == 1 else LATER_ALPHA / 2 ** (min(look, MAX_LOOKS) - 1)


@dataclass(frozen=True, slots=True)
class Sample:
    """Size, mean and standard deviation (with n - 1) of values; `sd` is None for fewer than two."""

    n: int
    mean: float
    sd: float | None

    @classmethod
    def of(cls, values: Sequence[float], rounding: float = 0.0) -> Sample:
        """`values` is not empty. A mean or spread within `rounding` is 0."""
        n = len(values)
        mean = math.fsum(values) / n
        # hypot: the square of a small number is 0
        sd = math.hypot(*(value - mean for value in values)) / math.sqrt(n - 1) if n > 1 else None
        return cls(n, mean if abs(mean) > rounding else 0.0, sd if sd is None or sd > rounding else 0.0)

    def interval(self, alpha: float = ALPHA) -> tuple[float, float]:
        """The t interval of the mean, which misses the true mean with probability alpha; `sd` is known."""
        assert self.sd is not None, "one value has no interval"
        half = t_quantile(self.n - 1, alpha) * self.sd / math.sqrt(self.n)
        return self.mean - half, self.mean + half

    def p_value(self) -> float:
        """Of the two-sided t test that the true mean is 0; `sd` is known."""
        assert self.sd is not None, "one value is not tested"
        if self.sd == 0:
            return float(self.mean == 0)
        return two_sided_p(self.n - 1, self.mean * math.sqrt(self.n) / self.sd)


@functools.lru_cache(1 << 16)
def t_quantile(df: int, alpha: float) -> float:
    """The value that Student's t exceeds in size with probability alpha."""
    from scipy.special import stdtrit

    return -float(stdtrit(df, alpha / 2))


def two_sided_p(df: int, t: float) -> float:
    """The probability that Student's t exceeds |t| in size."""
    from scipy.special import stdtr

    return 2 * float(stdtr(df, -abs(t)))


def holm_alphas(p_values: Sequence[float], alpha: float) -> list[float]:
    """The alpha at which Holm's procedure tests each hypothesis.

    The smallest p value of m is tested at alpha / m, the next one at alpha / (m - 1), until one is not rejected; this
    one's alpha is that of all others. So an interval at this alpha excludes 0 exactly if Holm rejects.
    """
    alphas = [0.0] * len(p_values)
    remaining = len(p_values)
    for index in sorted(range(len(p_values)), key=p_values.__getitem__):
        alphas[index] = alpha / remaining
        remaining -= p_values[index] <= alpha / remaining  # none after the first that is not rejected is
    return alphas


def seeds_to_decide(sample: Sample, alpha: float, most: int = MAX_MORE_SEEDS) -> int | None:
    """The smallest n, above that of the sample, whose interval excludes 0, were mean and sd to stay.

    None if it takes more than `most` further values.
    """
    if not sample.sd or not sample.mean:
        return None
    ratio = abs(sample.mean) / sample.sd
    low, high = sample.n, sample.n + most  # low does not suffice, or is the sample; high does
    if not ratio * math.sqrt(high) > t_quantile(high - 1, alpha):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if ratio * math.sqrt(middle) > t_quantile(middle - 1, alpha):
            high = middle
        else:
            low = middle
    return high


@functools.lru_cache(1 << 10)
def expected_maximum(count: int) -> float:
    """The mean of the largest of `count` independent standard normal values: 0, 0.56, 0.85, ...; of 50 it is 2.25."""
    if count == 1:
        return 0.0  # not the rounding of the sum
    import numpy as np
    from scipy.special import ndtr

    x = np.linspace(-9.0, 9.0, 4001)  # the sum over a smooth function that ends at 0 is exact to rounding
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return float((x * count * density * ndtr(x) ** (count - 1)).sum() * (x[1] - x[0]))


def expected_luck(tries: int, standard_error: float) -> float:
    """By how much the best of `tries` contenders looks better than the base, if all are equal to it.

    `standard_error` is that of one difference. Half of its square is the base's, which all contenders share and which
    therefore does not distinguish them.
    """
    assert tries >= 1, "the best of none does not exist"
    return expected_maximum(tries) * standard_error / math.sqrt(2)
