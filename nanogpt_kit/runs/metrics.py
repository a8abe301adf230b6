"""metrics.jsonl: one JSON object a logged step, appended."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from nanogpt_kit.core.reading import open_regular, read_bytes
from nanogpt_kit.runs.files import write_atomically


class MetricsLog:
    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, record: Mapping[str, float]) -> None:
        """JSON knows no NaN and no infinity; they become null."""
        finite = {key: value if math.isfinite(value) else None for key, value in record.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite) + "\n")


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Every whole line; a last one that a kill tore is passed over."""
    for line in read_bytes(path).decode("utf-8", "replace").split("\n") if path.exists() else ():
        if line:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                return
            if isinstance(record, dict) and isinstance(record.get("step"), int):
                yield record


def truncate_after(path: Path, step: int) -> None:
    """Forgets what was measured after `step`: a resumed run measures it again."""
    kept = [record for record in read(path) if record["step"] <= step]
    write_atomically(path, "".join(json.dumps(record) + "\n" for record in kept))


class Tail:
    """The lines that were added to a metrics.jsonl since the last look. A resumed run writes the file anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.at, self.inode = 0, -1

    def read(self) -> Iterator[dict[str, Any]]:
        try:
            seen = self.path.stat()
        except FileNotFoundError:
            return
        if seen.st_ino != self.inode or seen.st_size < self.at:
            self.at, self.inode = 0, seen.st_ino
        if seen.st_size == self.at:
            return
        with open_regular(self.path) as file:
            file.seek(self.at)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self.at += len(whole)
        for line in whole.splitlines():
            with suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict) and isinstance(record.get("step"), int):
                    yield record
