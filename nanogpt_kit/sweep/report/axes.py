"""The axis of a parameter in a figure: positions of values, ends and ticks. Needs plotly."""

from __future__ import annotations

import math
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from nanogpt_kit.report.page import format_number
from nanogpt_kit.report.plots import Point, linear_ticks, log_ticks, plotly_label, round_for_plot


def is_log(distribution: BaseDistribution) -> bool:
    return bool(getattr(distribution, "log", False))


def axis_position(value: Any, distribution: BaseDistribution) -> float:
    """The position of a value on its axis: a number itself, or the index of a choice."""
    return float(distribution.to_internal_repr(value))


def axis_ends(distribution: BaseDistribution) -> Point:
    """The ends of an axis, or of the exponents if it is logarithmic; never equal."""
    if isinstance(distribution, CategoricalDistribution):
        return 0.0, max(0.5, len(distribution.choices) - 1.0)
    low, high = float(distribution.low), float(distribution.high)  # type: ignore[attr-defined]
    if is_log(distribution):
        low, high = math.log10(low), math.log10(high)
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def axis_ticks(distribution: BaseDistribution) -> tuple[list[float], list[str]]:
    if isinstance(distribution, CategoricalDistribution):
        choices = distribution.choices
        return list(map(float, range(len(choices)))), [plotly_label(choice, 16) for choice in choices]
    low, high = distribution.low, distribution.high  # type: ignore[attr-defined]
    if is_log(distribution):
        at = log_ticks(low, high)
    else:
        at = linear_ticks(low, high, distribution.step if isinstance(distribution, IntDistribution) else 0.0)
    return at, [format_number(round_for_plot(value)) for value in at]
