"""The metrics of a run as a table: one row for each step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from nanogpt_kit.runs.metrics import read_metrics

IN_EVERY_ROW = ("step", "tokens", "seconds")
FIRST = (*IN_EVERY_ROW, "train/loss", "train/", "val/loss", "val/")  # columns, and groups of them


def metrics_table(path: Path) -> list[dict[str, Any]]:
    """A row for each step in metrics.jsonl, with every metric that was logged or evaluated there.

    Columns: step, tokens, seconds; then train/..., val/..., each with its loss first; then all others in the order of
    their names. A metric is missing in the rows where it was not measured; NaN stands for null, which the file
    has for NaN and infinity.
    """
    rows: dict[int, dict[str, Any]] = {}
    for record in read_metrics(path):
        values = {name: math.nan if value is None else value for name, value in record.items()}
        rows.setdefault(record["step"], {}).update(values)
    return [{name: row[name] for name in sorted(row, key=column_order)} for _, row in sorted(rows.items())]


def columns_of(rows: list[dict[str, Any]]) -> list[str]:
    """All columns in their order; those of every row also where there is none, as for an imported model."""
    return sorted({*IN_EVERY_ROW, *(name for row in rows for name in row)}, key=column_order)


def column_order(name: str) -> tuple[int, str]:
    """The rank of a column: its place in FIRST, else behind them by its name."""
    names = [name, f"{name.partition('/')[0]}/"]
    return min(FIRST.index(one) if one in FIRST else len(FIRST) for one in names), name
