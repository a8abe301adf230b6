"""Lets damaged metadata of installed distributions be read, in the processes of the command.

Pydantic and torch read the entry points of everything that is installed: a single file with a line that cannot be
decoded or parsed would end every command.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

read_undamaged = metadata.PathDistribution.read_text


def read_damaged(distribution: metadata.PathDistribution, filename: str) -> str | None:
    """The text of a file; bytes that are not UTF-8 become escapes, and lines without a value get an empty one."""
    try:
        text = read_undamaged(distribution, filename)
    except UnicodeDecodeError:
        path: Any = distribution._path.joinpath(filename)
        text = path.read_text(encoding="utf-8", errors="backslashreplace")
    if text is None or filename != "entry_points.txt":
        return text
    return "\n".join(line if is_parsed(line.strip()) else f"{line} =" for line in text.splitlines())


def is_parsed(line: str) -> bool:
    return not line or "=" in line or line[0] == "#" or (line[0], line[-1]) == ("[", "]")


def accept_damaged_metadata() -> None:
    """Applies to this process, also to what libraries read."""
    metadata.PathDistribution.read_text = read_damaged  # type: ignore[assignment, method-assign]
