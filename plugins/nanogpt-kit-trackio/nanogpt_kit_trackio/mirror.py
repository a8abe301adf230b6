"""A run in trackio that has what the files of the run folder have: metrics.jsonl and samples.txt.

The files are the truth. A point is identified by the line that it comes from, so that nothing is written twice, and
points whose lines a resumed run has removed are removed from trackio, too.

Source: trackio's storage, which ignores a point whose `log_id` it has (`trackio/sqlite_storage.py`, `bulk_log`).
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trackio import Markdown
from trackio.sqlite_storage import SQLiteStorage

SAMPLES = re.compile(rf"^{'=' * 60} step (\d+)\n", re.MULTILINE)  # before the texts of a step in samples.txt
TRAINED = ("dataset", "tokenizer", "model", "init", "optimizer", "schedule", "order", "train")  # what decides a model
RUN_ID = re.compile(r"\d{8}-\d{6,9}-s\d+-[0-9a-f]{6}")  # with the time and a hash, so that no two folders have the same
ROWS_AT_ONCE = 10_000


@dataclass(frozen=True)
class Point:
    """What trackio stores of a step: numbers by name, or texts."""

    step: int
    values: dict[str, Any]
    source: bytes

    def log_id(self, run_id: str) -> str:
        return f"{run_id}:{self.step}:{hashlib.sha256(self.source).hexdigest()[:16]}"


class Mirror:
    """Writes one run folder to one project of trackio. Methods raise OSError and sqlite3.Error where they cannot."""

    def __init__(self, folder: Path, project: str) -> None:
        """`project` may be empty: the name of the experiment."""
        self.folder = folder
        self.config = read_config(folder / "experiment.toml")
        self.project = project or str(self.config.get("name", folder.name))
        SQLiteStorage.validate_project_name(self.project)
        self.name = run_name(folder, str(self.config.get("name", "")))
        self.run_id = self.name if RUN_ID.fullmatch(self.name) else f"{self.name}-{short_hash(str(folder.resolve()))}"
        self.offset = 0  # bytes of metrics.jsonl that are written
        self.created = datetime.now(UTC).isoformat()

    def add_new(self) -> None:
        """Writes the points of lines that were added since the last call."""
        lines = self.metrics_lines()
        self.log([point for line in lines if (point := metrics_point(line))], "running")
        self.offset += sum(map(len, lines))

    def reconcile(self, status: str) -> None:
        """Makes trackio's run equal to the files, whatever it had before."""
        self.offset = 0
        lines = self.metrics_lines()
        points = [*(point for line in lines if (point := metrics_point(line))), *samples_points(self.folder)]
        self.remove_others({point.log_id(self.run_id) for point in points})
        self.log(points, status)
        self.offset = sum(map(len, lines))
        if points and status == "failed":
            self.alert("run failed", f"{self.folder}/status.json has the reason", points[-1].step)

    def metrics_lines(self) -> list[bytes]:
        """Whole lines behind the offset; an incomplete one is still being written."""
        try:
            with (self.folder / "metrics.jsonl").open("rb") as file:
                file.seek(self.offset)
                return [line for line in file if line.endswith(b"\n")]
        except FileNotFoundError:  # before the first line
            return []

    def log(self, points: Sequence[Point], status: str) -> None:
        """Writes points that trackio does not have yet, and the configuration with the status."""
        config = {**self.config, "status": status, "_Group": self.group(), "_Created": self.created, "_Username": None}
        for start in range(0, len(points), ROWS_AT_ONCE):
            part = points[start : start + ROWS_AT_ONCE]
            SQLiteStorage.bulk_log(
                project=self.project,
                run=self.name,
                run_id=self.run_id,
                metrics_list=[point.values for point in part],
                steps=[point.step for point in part],
                log_ids=[point.log_id(self.run_id) for point in part],
                config=config,
            )

    def remove_others(self, kept: set[str]) -> None:
        """Removes this run's points except those whose ids are `kept`."""
        path = SQLiteStorage.get_project_db_path(self.project)
        if not path.exists():
            return
        SQLiteStorage.init_db(self.project)  # an older file may lack a column
        with closing(sqlite3.connect(path, timeout=30.0)) as connection, connection:
            found = connection.execute("SELECT log_id FROM metrics WHERE run_id = ?", [self.run_id])
            stale = [(self.run_id, log_id) for (log_id,) in found if log_id not in kept]
            connection.executemany("DELETE FROM metrics WHERE run_id = ? AND log_id IS ?", stale)

    def alert(self, title: str, text: str, step: int) -> None:
        SQLiteStorage.bulk_alert(
            project=self.project,
            run=self.name,
            run_id=self.run_id,
            titles=[title],
            texts=[text],
            levels=["error"],
            steps=[step],
            alert_ids=[f"{self.run_id}:{step}:{title}"],
        )

    def group(self) -> str:
        """One for the runs that differ in their seed alone."""
        trained = {section: self.config.get(section) for section in TRAINED}
        train = dict(self.config.get("train", {}))
        train.pop("seed", None)
        trained["train"] = train
        return f"{self.config.get('name', self.project)}-{short_hash(json.dumps(trained, sort_keys=True, default=str))}"


def metrics_point(line: bytes) -> Point | None:
    """The point of a line of metrics.jsonl; None for a damaged one. Metrics that were not finite are left out."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        return None
    values = {name: value for name, value in record.items() if name != "step" and value is not None}
    return Point(record["step"], values, line)


def samples_points(folder: Path) -> Iterable[Point]:
    """The texts of each step in samples.txt, as literal text."""
    try:
        content = (folder / "samples.txt").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    _, *parts = SAMPLES.split(content)
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return [
        Point(int(step), {"samples": literal(texts)}, f"{index}:{texts}".encode())
        for index, (step, texts) in enumerate(pairs)
    ]


def literal(text: str) -> dict[str, Any]:
    """Markdown that shows the text as it is."""
    value: dict[str, Any] = Markdown("\n".join("    " + line for line in text.splitlines()))._to_dict()
    return value


def run_name(folder: Path, experiment: str) -> str:
    """The run's folder below that of its experiment: the run id, or sweep/trial-0003-s1 for a trial."""
    parts = folder.resolve().parts
    below = [index for index, part in enumerate(parts[:-1]) if part == experiment]
    return "/".join(parts[below[-1] + 1 :]) if below else parts[-1]


def read_config(path: Path) -> Mapping[str, Any]:
    """Every option of the run, as its experiment file records them."""
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]
