"""Tokens saved: an effect as the fraction of tokens that the better arm needs less to be as good as the other.

The rate of exchange comes from runs of the better arm that were trained in full, each with a schedule of its length, at
two or three budgets. It is never read along the curve of one run: its learning rate is another at each point, and
rankings change while it decays (arXiv:2509.02046).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from nanogpt_kit.comparison.intervals import ALPHA, t_quantile
from nanogpt_kit.comparison.numbers import level_text

LINE, CURVE = 0.0, 0.5  # exponents of loss over tokens: a straight line over their logarithm, and a steep power law

Interval = tuple[float, float, float]  # estimate, low, high


@dataclass(frozen=True)
class TokensSaved:
    """Fractions of the tokens of the full budget. Values at 0 or at `limit` may lie beyond; nothing is extrapolated."""

    fraction: float | None = None  # None: see reason
    low: float | None = None  # of its interval
    high: float | None = None
    limit: float | None = None  # the largest fraction that the budgets can show
    per_halving: float | None = None  # by which the metric becomes worse with half the tokens
    reason: str = ""  # why there is no fraction
    level: float = 1 - ALPHA  # of the interval

    def text(self) -> str:
        """For people, for example `12.0% of the tokens, 95% interval 5.0% to more than 50%`."""
        if self.fraction is None:
            return f"unknown: {self.reason}"
        found, low, high = (self._percent(value or 0.0) for value in (self.fraction, self.low, self.high))
        return f"{found} of the tokens, {level_text(self.level)} interval {low} to {high}"

    def _percent(self, value: float) -> str:
        if value == 0:
            return "none"
        return f"more than {value:.0%}" if value == self.limit else f"{value:.1%}"


def tokens_saved(
    runs: Mapping[int, Mapping[int, float]],
    effect: tuple[float | None, float | None, float | None],
    direction: str,
    level: float = 1 - ALPHA,
) -> TokensSaved:
    """What the better arm saves, by its full `runs`, {tokens: {seed: value}}; the largest budget is the full one.

    `effect` is the difference of contender and base at the full budget, with the low and the high end of its interval,
    which has this `level`. Loss falls ever more slowly, so that a straight line shows too little: the high end of the
    interval is that of a power law, if this is higher.
    """
    gain = gain_of_better_arm(*effect)
    if gain is None:
        return TokensSaved(reason="there is no difference with an interval")
    sign = 1 if direction == "minimize" else -1
    points = [
        (tokens, sign * value) for tokens, values in runs.items() for value in values.values() if math.isfinite(value)
    ]
    budgets = {tokens for tokens, _ in points}
    if len(budgets) < 2 or len(points) < 3:
        return TokensSaved(reason="it takes finished runs at two budgets at least, and three runs together")
    full = max(budgets)
    line, curve = (
        fit_rate([(token_scale(tokens / full, exponent), value) for tokens, value in points], 1 - level)
        for exponent in (LINE, CURVE)
    )
    if min(line[1], curve[1]) <= 0:
        return TokensSaved(reason="the runs do not show that more tokens give better values")
    limit = 1 - min(budgets) / full
    found, low, high = (saved_fraction(ratio, LINE, limit) for ratio in ratio_interval(gain, line))
    high = max(high, saved_fraction(ratio_interval(gain, curve)[2], CURVE, limit))
    return TokensSaved(found, low, high, limit, per_halving=line[0] * math.log(2), level=level)


def token_scale(fraction: float, exponent: float) -> float:
    """Of a fraction of the full budget: the scale on which a loss with this exponent is a straight line.

    At the full budget it is 0, and its slope 1.
    """
    return (1 - fraction**-exponent) / exponent if exponent else math.log(fraction)


def saved_fraction(ratio: float, exponent: float, limit: float) -> float:
    """Of the tokens, where the gain is `ratio` times the rate on that scale; from 0 to `limit`."""
    ratio = max(ratio, 0.0)
    rest = (1 + exponent * ratio) ** (-1 / exponent) if exponent else math.exp(-ratio)
    return min(1 - rest, limit)


def gain_of_better_arm(difference: float | None, low: float | None, high: float | None) -> Interval | None:
    """How much better the better arm is, above 0 whichever it is."""
    if difference is None or low is None or high is None or difference == 0:
        return None
    return (difference, low, high) if difference > 0 else (-difference, -high, -low)


def fit_rate(points: list[tuple[float, float]], alpha: float = ALPHA) -> Interval:
    """By how much a loss falls per unit of x, by least squares over all (x, loss)."""
    n = len(points)
    x_mean, y_mean = (math.fsum(values) / n for values in zip(*points, strict=True))
    spread = math.fsum((x - x_mean) ** 2 for x, _ in points)
    slope = math.fsum((x - x_mean) * (y - y_mean) for x, y in points) / spread
    residual = math.fsum((y - y_mean - slope * (x - x_mean)) ** 2 for x, y in points)
    half = t_quantile(n - 2, alpha) * math.sqrt(residual / (n - 2) / spread)
    return -slope, -slope - half, -slope + half


def ratio_interval(top: Interval, bottom: Interval) -> Interval:
    """The quotient of two independent estimates, `bottom` above 0 throughout, with its interval.

    By the method of variance estimates recovery (Donner and Zou, 2012), exact where one of them is known exactly.
    """
    a, a_low, a_high = top
    b, b_low, b_high = bottom
    low_root = math.sqrt(max(0.0, (a * b) ** 2 - a_low * b_high * (2 * a - a_low) * (2 * b - b_high)))
    high_root = math.sqrt(max(0.0, (a * b) ** 2 - a_high * b_low * (2 * a - a_high) * (2 * b - b_low)))
    return a / b, (a * b - low_root) / (b_high * (2 * b - b_high)), (a * b + high_root) / (b_low * (2 * b - b_low))
