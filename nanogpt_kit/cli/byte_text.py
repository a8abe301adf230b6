"""Sizes as text."""

from __future__ import annotations


def format_bytes(count: float) -> str:
    """With two or three digits, in powers of 1000: 35 bytes, 12 kB, 1.5 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if count >= 9.95 or unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
