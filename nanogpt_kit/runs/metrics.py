"""metrics.jsonl: one JSON object per logged step, appended.

A record is a dict, since its keys are the names of metrics, which evaluators choose; `step` is always there.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.system.reading import open_regular_file, read_bytes
from nanogpt_kit.system.writing import sync_file, write_atomically

logger = logging.getLogger(__name__)

MAX_BYTES_BACK = 1 << 26  # from the end, searched for an evaluation: 200,000 logged steps
MAX_LINE = 1 << 20  # bytes; a longer line is not one of ours
CHUNK_BYTES = 1 << 16

REMEDY = "; resuming would lose the lines after it: repair or delete this line, then resume"


class MetricsLog:
    """Appends to metrics.jsonl."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, record: Mapping[str, float]) -> None:
        """Appends a line; NaN and infinity, which JSON lacks, become null."""
        finite = {key: value if math.isfinite(value) else None for key, value in record.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite) + "\n")

    def sync(self) -> None:
        """Flushes to disk, so that a power cut cannot lose lines from before a checkpoint."""
        if self.path.exists():
            sync_file(self.path)


def parse_metrics_line(line: bytes) -> dict[str, Any] | None:
    """The record of a line; None where it is not an object with a step."""
    try:
        record = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    step = record.get("step") if isinstance(record, dict) else None
    return record if type(step) is int and step >= 0 else None  # a bool is an int, too


def metrics_lines(path: Path) -> Iterable[bytes]:
    return BytesIO(read_bytes(path)) if path.exists() else ()


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """All whole records. Logs a warning about damaged lines, but not about an incomplete last line, left by a kill."""
    damaged = []
    for line_number, line in enumerate(metrics_lines(path), start=1):
        record = parse_metrics_line(line)
        if record is not None:
            yield record
        elif line.strip() and line.endswith(b"\n"):
            damaged.append(line_number)
    if damaged:
        more = f" and {len(damaged) - 1} further lines are" if len(damaged) > 1 else " is"
        logger.warning("%s:%d%s damaged and skipped", path, damaged[0], more)


def truncate_metrics(path: Path, step: int) -> int:
    """Removes the records after `step`: a resumed run writes them again. Returns the last step in the file, or 0.

    An incomplete last line, left by a kill, is removed. Raises KitError, and leaves the file as it is, where another
    line is damaged or its step is smaller than the one before.
    """
    remaining, last = bytearray(), 0
    for line_number, line in enumerate(metrics_lines(path), start=1):
        record = parse_metrics_line(line)
        if record is None and not line.endswith(b"\n"):
            break
        if record is None and line.strip():
            raise KitError(Fault("the line is damaged" + REMEDY, location=f"{path}:{line_number}"))
        if record is not None:
            if record["step"] < last:
                raise KitError(
                    Fault(f"step {record['step']} after step {last}{REMEDY}", location=f"{path}:{line_number}")
                )
            last = record["step"]
        if last <= step:
            remaining += line if line.endswith(b"\n") else line + b"\n"
    write_atomically(path, bytes(remaining))
    return last


def last_evaluation(path: Path, until_step: int | None = None) -> dict[str, Any]:
    """The newest record with a finite val/loss, at or before `until_step`; empty where there is none.

    It is searched from the end, so that the length of the file does not matter. Damaged lines are passed over.
    """
    for line in lines_from_the_end(path):
        record = parse_metrics_line(line) if b'"val/loss"' in line else None
        if record and is_finite_number(record.get("val/loss")) and (until_step is None or record["step"] <= until_step):
            return record
    return {}


def is_finite_number(value: Any) -> bool:
    """Whether a value read from JSON is a finite float, or an integer that a float can hold."""
    return type(value) in (int, float) and -1e300 < value < 1e300


def lines_from_the_end(path: Path) -> Iterator[bytes]:
    """The lines of a file, the last one first. Ends at a line that is too long; empty where it is not a file."""
    try:
        with open_regular_file(path) as file:
            position = file.seek(0, os.SEEK_END)
            end, rest = position, b""
            while position > 0 and end - position < MAX_BYTES_BACK and len(rest) <= MAX_LINE:
                size = min(CHUNK_BYTES, position)
                position = file.seek(position - size)
                first, *others = (file.read(size) + rest).split(b"\n")
                yield from reversed(others)
                rest = first
            if position == 0:
                yield rest
    except (OSError, ValueError):  # missing, not a regular file, or a name with NUL in it
        return


class MetricsReader:
    """Reads the records added to metrics.jsonl since the last call. A resumed run replaces the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position, self.inode = 0, -1
        self.line_number = 0  # of the line before `position`

    def new_records(self) -> Iterator[dict[str, Any]]:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return
        if status.st_ino != self.inode or status.st_size < self.position:
            self.position, self.inode, self.line_number = 0, status.st_ino, 0
        if status.st_size == self.position:
            return
        with open_regular_file(self.path) as file:
            file.seek(self.position)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self.position += len(whole)
        for line in whole.split(b"\n")[:-1]:
            self.line_number += 1
            record = parse_metrics_line(line)
            if record is not None:
                yield record
            elif line.strip():
                logger.warning("%s:%d is damaged and skipped", self.path, self.line_number)
