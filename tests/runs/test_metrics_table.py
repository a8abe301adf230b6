"""metrics.jsonl as a table with a row for each step."""

from __future__ import annotations

import json
import math
from pathlib import Path

from nanogpt_kit.runs.metrics_table import columns_of, metrics_table

LINES = [
    {"step": 0, "tokens": 0, "seconds": 0.0, "val/loss": 5.5, "val/bits_per_byte": 8.0},
    {"step": 3, "tokens": 96, "seconds": 0.5, "optim/lr": 0.1, "memory/peak_bytes": 7, "train/loss": 4.5},
    {"step": 5, "tokens": 160, "seconds": 0.75, "train/loss": None, "optim/lr": 0.2},
    {"step": 5, "tokens": 160, "seconds": 0.75, "wiki/loss": 3.0, "val/bits_per_byte": 6.0, "val/loss": 4.25},
]


def test_training_and_evaluation_of_a_step_are_one_row_and_null_is_nan(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES), encoding="utf-8")
    rows = metrics_table(path)
    assert [row["step"] for row in rows] == [0, 3, 5]
    assert rows[1] == LINES[1]
    assert math.isnan(rows[2].pop("train/loss"))
    assert rows[2] == {**LINES[3], "optim/lr": 0.2}


def test_columns_begin_with_the_step_and_the_losses(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES), encoding="utf-8")
    rows = metrics_table(path)
    columns = ["step", "tokens", "seconds", "train/loss", "val/loss", "val/bits_per_byte"]
    assert columns_of(rows) == [*columns, "memory/peak_bytes", "optim/lr", "wiki/loss"]
    assert list(rows[0]) == ["step", "tokens", "seconds", "val/loss", "val/bits_per_byte"]


def test_a_run_that_has_logged_nothing_has_no_rows(tmp_path: Path) -> None:
    assert metrics_table(tmp_path / "metrics.jsonl") == []
    assert columns_of([]) == ["step", "tokens", "seconds"]
