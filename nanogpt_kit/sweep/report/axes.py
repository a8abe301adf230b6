"""The axis of a parameter in a figure: positions of values, ends and ticks. Needs plotly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from nanogpt_kit.report.labels import short_labels
from nanogpt_kit.report.page import format_number
from nanogpt_kit.report.plots import Point, linear_ticks, log_ticks, plotly_label, round_for_plot
from nanogpt_kit.sweep.space.parameters import format_json, format_value

CHOICE_CHARACTERS = 16  # of a choice at its tick
TICK_GAP = 0.07  # of an axis: a round number nearer to an end than this gives way to the end
TOKEN_AIR = 1.03  # an axis from 0 to a little more than the most tokens


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
        texts = choice_texts(distribution.choices)
        labels = short_labels(texts, CHOICE_CHARACTERS)
        return list(map(float, range(len(texts)))), [plotly_label(labels[text]) for text in texts]
    low, high = distribution.low, distribution.high  # type: ignore[attr-defined]
    if is_log(distribution):
        at = log_ticks(low, high)
    else:
        step = distribution.step if isinstance(distribution, IntDistribution) else 0
        at = [*map(float, whole_ticks(high, low))] if step == 1 else linear_ticks(low, high, step)
    return at, [format_number(round_for_plot(value)) for value in at]


def choice_texts(choices: Sequence[Any]) -> list[str]:
    """Choices as text; where this makes two equal, such as 1 and "1", as JSON."""
    texts = [format_number(choice) if isinstance(choice, float) else format_value(choice) for choice in choices]
    return texts if len({*texts}) == len(texts) else [format_json(choice) for choice in choices]


def ticks_with_ends(ticks: Sequence[float], low: float, high: float) -> list[float]:
    """Ticks with both ends of an axis, without those that are too near to one of them."""
    gap = TICK_GAP * (high - low)
    return [low, *(tick for tick in ticks if low + gap < tick < high - gap), high]


def set_trial_axis(figure: go.Figure, last: int) -> None:
    """The horizontal axis of trials from 0 to the index `last`, with whole numbers at its ticks."""
    air = max(0.5, 0.02 * last)
    ticks = whole_ticks(last)
    figure.update_xaxes(range=[-air, last + air], tickvals=ticks, ticktext=[f"{tick:,}" for tick in ticks])


def whole_ticks(last: int, first: int = 0) -> list[int]:
    """Whole numbers from `first` to `last`, round ones where there are many."""
    ticks = [float(tick) for tick in linear_ticks(first, last)]
    return [*map(int, ticks if all(tick.is_integer() for tick in ticks) else linear_ticks(first, last, 1))]


def set_token_axis(figure: go.Figure, most: float) -> None:
    """The horizontal axis of tokens, from 0 on: a single evaluation does not make a range."""
    figure.update_xaxes(range=[0, TOKEN_AIR * most], tickformat="~s")
