"""The terminal: its width, and lines wrapped to it."""

from __future__ import annotations

import os
import textwrap
from typing import TextIO

HANG = 4  # columns by which the rest of a wrapped line is indented
MIN_WIDTH = 30  # columns of a text beside its label; else it begins on the next line


def terminal_width(stream: TextIO | None) -> int:
    """Columns of the terminal that `stream` writes to: COLUMNS, else those that the system reports, else 80."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return int(columns)
    try:
        return os.get_terminal_size(stream.fileno() if stream else -1).columns or 80
    except (OSError, ValueError):
        return 80


def wrap_lines(text: str, width: int) -> str:
    """Each line wrapped at spaces, its rest indented; words longer than a line, as paths may be, are not divided."""
    return "\n".join(wrap_line(line, width) for line in text.split("\n"))


def wrap_line(line: str, width: int, start: str = "") -> str:
    """`start` and the line, whose rest is indented by as much; where that leaves little space, it begins below."""
    if start.strip() and width - len(start) < MIN_WIDTH:
        return f"{start.rstrip()}\n{wrap_line(line, width, ' ' * 2 * HANG)}"
    indent = len(start) or len(line) - len(line.lstrip(" ")) + HANG
    parts = textwrap.wrap(
        start + line,
        width,
        subsequent_indent=" " * indent,
        replace_whitespace=False,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(parts)
