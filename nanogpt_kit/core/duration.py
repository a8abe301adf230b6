"""Durations as text."""

from __future__ import annotations


def format_duration(seconds: float) -> str:
    """With two or three digits: 35 s, 12 min, 1.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
