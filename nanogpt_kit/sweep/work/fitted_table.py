"""A table without lines that fits the terminal: less important columns are left out, and no word is divided."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from rich.table import Table
from rich.text import Text

GAP = 2  # columns between two cells
NARROW = 100  # columns of a terminal, below which it has no room for two cells with long texts


def fitted_table(
    columns: Mapping[str, str],
    rows: Sequence[Mapping[str, str]],
    width: int,
    dropped_first: Sequence[str] = (),
    wrapped: Collection[str] = (),
) -> Table:
    """The texts of `rows` below the headers of `columns`, both by key.

    Where `width` columns of the terminal cannot hold every word, the keys of `dropped_first` are left out, one by one.
    Cells of `wrapped` may have several lines.
    """
    widths = {key: cell_width(header, [row[key] for row in rows], key in wrapped) for key, header in columns.items()}
    for dropped in dropped_first:
        if sum(widths.values()) + GAP * len(widths) <= width:
            break
        widths.pop(dropped, None)
    table = plain_table(*(columns[key] for key in widths))
    for row in rows:
        table.add_row(*(Text(row[key]) for key in widths))
    return table


def columns_with_text(
    columns: Mapping[str, str], rows: Sequence[Mapping[str, str]], optional: Collection[str]
) -> dict[str, str]:
    """The columns without those of `optional` that are empty in all rows."""
    return {key: header for key, header in columns.items() if key not in optional or any(row[key] for row in rows)}


def joined_cells(row: Mapping[str, str], key: str, other: str) -> dict[str, str]:
    """The row with the text of one cell in brackets behind that of another."""
    text = " ".join(filter(None, [row[key], row[other] and f"({row[other]})"]))
    return {**row, key: text, other: ""}


def cell_width(header: str, texts: Sequence[str], is_wrapped: bool) -> int:
    """The columns that a column of the table needs."""
    words = [word for text in texts for word in text.split()] if is_wrapped else texts
    return max(map(len, [header, *words]))


def plain_table(*columns: str) -> Table:
    """A table without lines. Users' text is added as rich Text: a str would be searched for markup and emoji names."""
    table = Table(box=None, padding=(0, GAP, 0, 0))
    for name in columns:
        table.add_column(Text(name), overflow="fold")
    return table
