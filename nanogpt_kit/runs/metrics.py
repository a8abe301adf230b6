"""metrics.jsonl: one JSON object a logged step, appended."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.reading import open_regular, read_bytes
from nanogpt_kit.core.writing import sync_file, write_atomically

logger = logging.getLogger(__name__)

REMEDY = "; a resume would lose what follows it: repair or delete this line, then resume"


class MetricsLog:
    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, record: Mapping[str, float]) -> None:
        """JSON knows no NaN and no infinity; they become null."""
        finite = {key: value if math.isfinite(value) else None for key, value in record.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite) + "\n")

    def sync(self) -> None:
        """Puts on the disk what was written, so that a power cut cannot take lines from before a checkpoint."""
        if self.path.exists():
            sync_file(self.path)


def record_of(line: bytes) -> dict[str, Any] | None:
    """None where a line is not an object with a step."""
    try:
        record = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    step = record.get("step") if isinstance(record, dict) else None
    return record if type(step) is int and step >= 0 else None  # a bool is an int, too


def lines_of(path: Path) -> Iterable[bytes]:
    return BytesIO(read_bytes(path)) if path.exists() else ()


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Every whole record, for those who show them. A damaged line is reported; a last one that a kill tore is not."""
    damaged = []
    for number, line in enumerate(lines_of(path), start=1):
        record = record_of(line)
        if record is not None:
            yield record
        elif line.strip() and line.endswith(b"\n"):
            damaged.append(number)
    if damaged:
        more = f" and {len(damaged) - 1} more lines are" if len(damaged) > 1 else " is"
        logger.warning("%s:%d%s damaged and not shown", path, damaged[0], more)


def truncate_after(path: Path, step: int) -> int:
    """Forgets what was measured after `step`: a resumed run measures it again. Returns the last step in the file, or 0.

    A last line that a kill tore is dropped. Raises KitError that names the first other line that is damaged, or whose
    step is smaller than the one before; the file is left as it is then.
    """
    remaining, last = bytearray(), 0
    for number, line in enumerate(lines_of(path), start=1):
        record = record_of(line)
        if record is None and not line.endswith(b"\n"):
            break
        if record is None and line.strip():
            raise KitError(Fault("the line is damaged" + REMEDY, location=f"{path}:{number}"))
        if record is not None:
            if record["step"] < last:
                raise KitError(Fault(f"step {record['step']} after step {last}{REMEDY}", location=f"{path}:{number}"))
            last = record["step"]
        if last <= step:
            remaining += line if line.endswith(b"\n") else line + b"\n"
    write_atomically(path, bytes(remaining))
    return last


class Tail:
    """The lines that were added to a metrics.jsonl since the last look. A resumed run writes the file anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.at, self.inode = 0, -1
        self.number = 0  # of the line before `at`

    def read(self) -> Iterator[dict[str, Any]]:
        try:
            seen = self.path.stat()
        except FileNotFoundError:
            return
        if seen.st_ino != self.inode or seen.st_size < self.at:
            self.at, self.inode, self.number = 0, seen.st_ino, 0
        if seen.st_size == self.at:
            return
        with open_regular(self.path) as file:
            file.seek(self.at)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self.at += len(whole)
        for line in whole.split(b"\n")[:-1]:
            self.number += 1
            record = record_of(line)
            if record is not None:
                yield record
            elif line.strip():
                logger.warning("%s:%d is damaged and passed over", self.path, self.number)
