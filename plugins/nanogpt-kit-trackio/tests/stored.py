"""What trackio has stored, read with its own functions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trackio import Api
from trackio.sqlite_storage import SQLiteStorage


def runs_of(project: str) -> list[Any]:
    return list(Api().runs(project)) if project in SQLiteStorage.get_projects() else []


def points_of(project: str, name: str) -> list[dict[str, Any]]:
    return SQLiteStorage.get_logs(project, name)


def numbers_of(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points with numbers, as metrics.jsonl has them."""
    kept = [{key: value for key, value in point.items() if key != "timestamp"} for point in points]
    return sorted((point for point in kept if "samples" not in point), key=in_order)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return sorted(map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()), key=in_order)


def in_order(point: dict[str, Any]) -> tuple[int, bool]:
    return point["step"], "val/loss" in point
