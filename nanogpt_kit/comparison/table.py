"""Tables in plain text, divided into blocks that fit a line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

WIDTH = 80  # columns
COLUMN_GAP = "  "


def block_lines(labels: Sequence[str], columns: Sequence[Sequence[str]], width: int = WIDTH) -> list[str]:
    """Rows that begin with their label on the left; the cells of the columns are on the right.

    The first label and the first cell of each column are the header. Columns that do not fit are a table below.
    """
    label_width = max(map(len, labels))
    lines: list[str] = []
    for block in column_blocks(columns, width - label_width):
        widths = [max(map(len, column)) for column in block]
        for label, *cells in zip(labels, *block, strict=True):
            texts = (f"{COLUMN_GAP}{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
            lines.append(f"{label:{label_width}}{''.join(texts)}".rstrip())
    return lines


def column_blocks(columns: Sequence[Sequence[str]], width: int) -> Iterator[list[Sequence[str]]]:
    """The columns in their order, as many in each block as fit; at least one."""
    block: list[Sequence[str]] = []
    used = 0
    for column in columns:
        needed = len(COLUMN_GAP) + max(map(len, column))
        if block and used + needed > width:
            yield block
            block, used = [], 0
        block.append(column)
        used += needed
    if block:
        yield block
