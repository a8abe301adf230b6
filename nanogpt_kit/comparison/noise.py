"""Noise: how much an arm's values differ between seeds, and the smallest effects that a number of seeds can detect."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from nanogpt_kit.comparison.intervals import ALPHA, ROUNDING, Sample, t_quantile
from nanogpt_kit.comparison.verdicts import SAME_DIFFERENCE

POWER = 0.8  # probability that an effect of the smallest detectable size is called better or worse
SEEDS = (3, 5, 10, 20)


@dataclass(frozen=True)
class DetectableEffect:
    """The smallest true differences that `seeds` runs of each arm detect with probability POWER, at the first look."""

    seeds: int
    unpaired: float  # of two arms as noisy as this one, whose seeds have nothing in common
    paired: float | None  # by pairs of seeds; None without a contender with a spread


@dataclass(frozen=True)
class Noise:
    """The spread of an arm's values over seeds, in units of the metric. What the values leave open is None."""

    seeds: tuple[int, ...]
    mean: float | None
    sd: float | None
    sd_low: float | None  # of the 95% interval of sd, for normal noise
    sd_high: float | None
    pairs: int  # seeds that the contender has, too
    difference_sd: float | None  # of the paired differences
    effects: tuple[DetectableEffect, ...]
    reason: str = ""  # why something is None


def measure_noise(values: Mapping[int, float], contender: Mapping[int, float] | None = None) -> Noise:
    """`values` and those of a contender are {seed: value}; values that are not finite are left out."""
    finite = {seed: value for seed, value in sorted(values.items()) if math.isfinite(value)}
    differences = [other - finite[seed] for seed, other in (contender or {}).items() if seed in finite]
    differences = [difference for difference in differences if math.isfinite(difference)]
    rounding = ROUNDING * max(map(abs, finite.values()), default=0.0)
    sample, paired = (
        Sample.of(numbers, rounding) if numbers else None for numbers in ([*finite.values()], differences)
    )
    sd, paired_sd = (one.sd if one else None for one in (sample, paired))
    reason = spread_reason(sd)
    if contender is not None:
        reason = reason or difference_reason(paired_sd)
    low, high = sd_interval(sd, len(finite)) if sd else (None, None)
    return Noise(
        seeds=tuple(finite),
        mean=sample.mean if sample else None,
        sd=sd,
        sd_low=low,
        sd_high=high,
        pairs=len(differences),
        difference_sd=paired_sd,
        effects=detectable_effects(sd, paired_sd or None, len(finite)) if sd else (),
        reason=reason,
    )


def spread_reason(sd: float | None) -> str:
    """Why the spread of values is unknown, if it is; a coarse metric may repeat values by chance."""
    if sd is None:
        return "the spread of fewer than two values is unknown"
    return "" if sd else "the value is the same for every seed, so its spread is unknown"


def difference_reason(sd: float | None) -> str:
    """The same of differences by seed."""
    if sd is None:
        return "fewer than two seeds have a value in both arms, so the spread of their differences is unknown"
    return "" if sd else SAME_DIFFERENCE


def detectable_effects(sd: float, difference_sd: float | None, n: int) -> tuple[DetectableEffect, ...]:
    """For SEEDS and the number at hand."""
    return tuple(
        DetectableEffect(
            seeds,
            unpaired=sd * math.sqrt(2 / seeds) * detectable_shift(2 * seeds - 2),
            paired=None if difference_sd is None else difference_sd / math.sqrt(seeds) * detectable_shift(seeds - 1),
        )
        for seeds in sorted({*SEEDS, n})
    )


def sd_interval(sd: float, n: int, alpha: float = ALPHA) -> tuple[float, float]:
    """The interval of the standard deviation of normal noise, from that of n values."""
    from scipy.special import chdtri

    low, high = (float(chdtri(n - 1, tail)) for tail in (alpha / 2, 1 - alpha / 2))
    return sd * math.sqrt((n - 1) / low), sd * math.sqrt((n - 1) / high)


@functools.lru_cache
def detectable_shift(df: int) -> float:
    """The smallest true difference, in standard errors, that a two-sided t test detects with probability POWER."""
    from scipy.special import nctdtr

    limit = t_quantile(df, ALPHA)
    low, high = 0.0, 4 * limit + 4  # detected with less and with more than POWER
    for _ in range(60):
        middle = (low + high) / 2
        detected = 1 - nctdtr(df, middle, limit)  # to the right side; to the wrong one with less than 1e-6
        low, high = (middle, high) if detected < POWER else (low, middle)
    return high
