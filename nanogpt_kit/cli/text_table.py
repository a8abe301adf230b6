"""Tables of plain text: whole in pipes, cut to the width of a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

GAP = 2  # blanks between columns
CUT = "…"


@dataclass(frozen=True)
class Column:
    """A column with a text for each row."""

    name: str
    texts: Sequence[str]
    cut: Literal["", "left", "right"] = ""  # the end at which its texts may be cut
    least: int = 0  # columns of the terminal that it keeps when it is cut

    @property
    def width(self) -> int:
        return max(map(display_width, (self.name, *self.texts)))

    @property
    def min_width(self) -> int:
        return min(self.width, max(self.least, display_width(self.name))) if self.cut else self.width


def table_lines(columns: Sequence[Column], width: int | None) -> tuple[list[str], list[str]]:
    """(the lines of the table, the names of the columns that are left out so that it is not wider than `width`).

    With too little space, whole columns are left out from the right, those that can be cut last. The first one stays.
    """
    shown, left_out = list(columns), list[str]()
    while width is not None and len(shown) > 1 and sum(column.min_width + GAP for column in shown) - GAP > width:
        gone = next((column for column in reversed(shown[1:]) if not column.cut), shown[-1])
        shown.remove(gone)
        left_out.insert(0, gone.name)
    widths = [column.width if width is None else column.min_width for column in shown]
    if width is not None:
        widths[0] = min(widths[0], width)
        for index, column in enumerate(shown):
            free = width - sum(widths) - GAP * (len(widths) - 1)
            widths[index] += max(0, min(free, column.width - widths[index]))
    rows = [[padded(column.name, size) for column, size in zip(shown, widths, strict=True)]]
    for texts in zip(*(column.texts for column in shown), strict=True):
        cells = zip(texts, shown, widths, strict=True)
        rows.append([padded(shortened(text, size, column.cut), size) for text, column, size in cells])
    return [(" " * GAP).join(row).rstrip() for row in rows], left_out


def shortened(text: str, width: int, cut: str) -> str:
    """The text, with an ellipsis at the end where it is cut."""
    if display_width(text) <= width:
        return text
    characters = text if cut != "left" else text[::-1]
    kept = ""
    for character in characters:
        if display_width(kept + character) > width - 1:
            break
        kept += character
    return f"{kept}{CUT}" if cut != "left" else f"{CUT}{kept[::-1]}"


def padded(text: str, width: int) -> str:
    return text + " " * (width - display_width(text))


def display_width(text: str) -> int:
    """Columns of the terminal: East Asian characters take two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in text
    )
