"""Values in files that somebody else may have made."""

from __future__ import annotations

MAX_SIZE = 2**31 - 1  # of any dimension; no memory holds a larger one


def number_fault(value: object, low: float, high: float, integer: bool = False) -> str | None:
    """Which number was expected; None if `value` is one."""
    if not isinstance(value, bool) and isinstance(value, int if integer else (int, float)) and low <= value <= high:
        return None
    return f"expected {'an integer' if integer else 'a number'} from {low:g} to {high:g}"


def format_value(value: object) -> str:
    """A value short enough for a message."""
    if isinstance(value, int) and abs(value) > 10**30:
        return "an integer of more than 30 digits"
    if not isinstance(value, str | int | float | None):
        return f"a {type(value).__name__}"
    text = repr(value[:60] if isinstance(value, str) else value)
    return text + "..." * (isinstance(value, str) and len(value) > 60)
