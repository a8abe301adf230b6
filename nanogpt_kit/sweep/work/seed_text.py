"""The values of a trial with several seeds as text: their mean, standard deviation, and each of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from nanogpt_kit.comparison.numbers import count_text

MOST_SHOWN = 8  # values of seeds in one line


def sd_of(values: Sequence[float]) -> float | None:
    """The standard deviation; None of a single value, and where one is not finite."""
    return statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else None


def mean_text(metric: str, values: Sequence[float], seed: str = "seed", remark: str = "") -> str:
    """Such as "val/loss 3.1291, sd 0.0430 over 3 seeds (3.1129, 3.0963, 3.1782)"; of one value "val/loss 3.1129".

    `seed` is what the values are over, and `remark` is added to them.
    """
    text = f"{metric} {statistics.fmean(values):.4f}"
    if len(values) < 2 and not remark:
        return text
    sd = sd_of(values)
    spread = f", sd {sd:.4f}" if sd is not None else ""
    each = "; ".join(filter(None, [list_text(values), remark]))
    return f"{text}{spread} over {count_text(len(values), seed)} ({each})"


def list_text(values: Sequence[float]) -> str:
    """Such as "3.1129, 3.0963, 3.1782"; of many the first ones."""
    more = len(values) - MOST_SHOWN
    shown = ", ".join(f"{value:.4f}" for value in values[:MOST_SHOWN])
    return f"{shown}, and {more:,} more" if more > 0 else shown
