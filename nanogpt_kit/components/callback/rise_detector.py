"""Whether a noisy series rises far above its own recent level, judged by its own recent variation.

The level is the median of the last steps before. The variation is read from the bends between three steps: neither a
falling loss nor a few outliers change the quartiles of these.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from dataclasses import dataclass
from typing import Any

PERSISTENT = 3  # consecutive steps that are high; a single strange batch is one step
LEVEL = 20  # steps that the level is the median of: few, since a loss falls fast at first
FEW = 10  # values, or bends, that a median or quartiles require
LAG = 5  # steps between the three values of a bend; neighbours may be alike
LARGE_AT_FIRST = 1.5  # times a far rise at which one of the first steps is enough: the next may not be finite
NORMAL_IQR = 1.349  # interquartile range of a normal distribution in standard deviations


@dataclass(frozen=True)
class Rise:
    """A rise that was found, from a level that the series had before."""

    level: float
    steps_before: int  # that the level is the median of; 0: the level is the lowest so far


class RiseDetector:
    """Takes one value for each step."""

    def __init__(self, window: int, deviations: float, least: float, slow: float, far: float, deviation: float) -> None:
        """`window` is the number of steps whose variation counts. A rise is at least `deviations` standard deviations;
        one of PERSISTENT values is at least `least` from the newest level, or `far` from the lowest level so far, and
        one of the level is at least `slow` from the lowest. `deviation` is the standard deviation where too few steps
        are known; all four are in units of the values."""
        self.window, self.deviations, self.deviation = window, deviations, deviation
        self.least, self.slow, self.far = least, slow, far
        self.values: list[float] = []  # of the last steps: the window, and PERSISTENT more
        self.bends: list[float] = []  # second differences of values of the window, in ascending order
        self.lowest = math.inf  # level so far; of the first steps the lowest value

    def add(self, value: float) -> Rise | None:
        """The rise that this value completes, if it does."""
        self.values.append(value)
        before, newest = self.values[-PERSISTENT - LEVEL : -PERSISTENT], self.values[-PERSISTENT:]
        high = min(newest) if len(newest) == PERSISTENT else -math.inf
        level = sorted(before)[len(before) // 2] if len(before) >= FEW else None
        rise = self._rise(level, len(before), high, value)
        self.lowest = min(self.lowest, value if level is None else level)
        if len(before) == FEW and level is not None:
            self.lowest = level  # single values vary more than medians
        if len(self.values) > PERSISTENT:
            self._enter_window()
        return rise

    def _rise(self, level: float | None, steps_before: int, high: float, value: float) -> Rise | None:
        usual = self.deviations * self._deviation()
        far = max(self.far, usual)
        if level is not None and high > level + max(self.least, usual):
            return Rise(level, steps_before)
        if level is None:
            is_high = value > self.lowest + LARGE_AT_FIRST * far
        else:  # until `lowest` is a level, it is that of single values, which vary more
            is_high = steps_before > FEW and min(high, level) > self.lowest + max(self.slow, usual)
        return Rise(self.lowest, 0) if is_high or high > self.lowest + far else None

    def _deviation(self) -> float:
        count = len(self.bends)
        if count < FEW:
            return self.deviation
        iqr = self.bends[3 * count // 4] - self.bends[count // 4]
        return iqr / NORMAL_IQR / math.sqrt(6)  # independent values: 1 + 4 + 1 times the variance of one

    def _enter_window(self) -> None:
        """The newest value that is not among the last PERSISTENT ones enters the window, the oldest may leave it."""
        known = len(self.values) - PERSISTENT
        if known > 2 * LAG:
            insort(self.bends, bend(self.values, known - 1))
        if known > self.window:
            del self.bends[bisect_left(self.bends, bend(self.values, 2 * LAG))]
            del self.values[0]

    def state_dict(self) -> dict[str, Any]:
        return {"values": list(self.values), "lowest": self.lowest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values, self.lowest = list(state["values"])[-self.window - PERSISTENT :], state["lowest"]
        self.bends = sorted(bend(self.values, last) for last in range(2 * LAG, len(self.values) - PERSISTENT))


def bend(values: list[float], last: int) -> float:
    """The second difference of three values, of which the last has this index."""
    return values[last] - 2 * values[last - LAG] + values[last - 2 * LAG]
