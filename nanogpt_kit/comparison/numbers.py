"""Numbers of a comparison as text: as many decimals as its spread gives meaning to."""

from __future__ import annotations

import math
from collections.abc import Iterable

from nanogpt_kit.comparison.record import Comparison

MIN_DECIMALS, MAX_DECIMALS = 4, 8
LARGE = 1e6  # from here on decimals say nothing
SMALL = 1e-6  # below it even MAX_DECIMALS say little


def value_decimals(comparison: Comparison) -> int:
    """Decimals of all values of a comparison."""
    return spread_decimals(result.difference_sd for result in comparison.results)


def spread_decimals(spreads: Iterable[float | None]) -> int:
    """Decimals that give two digits of the smallest standard deviation; those that are unknown or 0 do not count."""
    smallest = min(filter(None, spreads), default=1.0)
    return min(MAX_DECIMALS, max(MIN_DECIMALS, 1 - math.floor(math.log10(smallest))))


def decimal_text(value: float | None, decimals: int, sign: bool = False) -> str:
    """Empty for None. A value that rounds to 0 has no sign."""
    if value is None:
        return ""
    if abs(value) >= LARGE or (decimals == MAX_DECIMALS and 0 < abs(value) < SMALL):
        return f"{value:+.4g}" if sign else f"{value:.4g}"
    rounded = round(value, decimals) + 0.0  # -0.0 + 0.0 is 0.0
    return f"{rounded:{'+' if sign and rounded else ''}.{decimals}f}"


def level_text(level: float) -> str:
    """Such as "95%", "98.33%"; of a level near 1 as many digits as distinguish it from 1."""
    digits = 2 if level < 0.9999 else 1 - math.floor(math.log10(100 * (1 - level)))
    return f"{round(100 * level, digits):.{digits}f}".rstrip("0").rstrip(".") + "%"


def short_count(value: float | None) -> str:
    """With three digits: 950, 12.3k, 124M."""
    if value is None:
        return ""
    for unit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * unit:
            return f"{three_digits(value / unit)}{suffix}"
    return f"{value:.0f}"


def seconds_text(value: float | None) -> str:
    """Such as "12.3", "1,234"."""
    if value is None:
        return ""
    return f"{value:.1f}" if value < 1000 else f"{value:,.0f}"


def bytes_text(count: float | None) -> str:
    """Such as "512 MiB"."""
    return "" if count is None else f"{count / 2**20:,.0f} MiB"


def three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}"


def ratio_text(value: float | None, base: float | None) -> str:
    """Such as "x1.02"; empty where one of them is unknown or 0."""
    return f"x{value / base:.2f}" if value and base else ""


def count_text(count: int, one: str, many: str = "") -> str:
    """Such as "1 seed", "1,200 seeds"."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def joined_names(names: Iterable[str]) -> str:
    """Such as "a, b and c"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
