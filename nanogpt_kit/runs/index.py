"""All runs below the runs folder, at any depth, each with what lists and comparisons need of it.

The folders are the truth. A cache keeps what was read of each until one of its files changes; it may be deleted,
damaged or written by several processes at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from nanogpt_kit.runs import indexed_run, notes, recorded_values
from nanogpt_kit.runs.folder import RunFolder, relative_to_cwd, runs_root
from nanogpt_kit.runs.indexed_run import FILES, IndexedRun
from nanogpt_kit.system.folders import cache_dir, is_within
from nanogpt_kit.system.garbage_collection import without_garbage_collection
from nanogpt_kit.system.reading import read_bytes
from nanogpt_kit.system.writing import write_atomically

UNSETTLED_NS = 2 * 10**9  # a file may change again without another time: FAT rounds times to 2 s, others to 10 ms
WRITE_FRACTION = 0.05  # of the runs: to read that many again takes as long as to write the cache
COLUMNS = tuple(column.name for column in fields(IndexedRun))
MAPPINGS = [COLUMNS.index(name) for name in ("metrics", "options", "yardsticks", "data", "starts")]

Stamp = list[int]  # of each of FILES: times of change of content and inode in ns, size, inode; -1 where it is missing
Rows = dict[str, tuple[Stamp, IndexedRun]]  # by the absolute path of the run


def index_runs(root: Path | None = None) -> list[IndexedRun]:
    """Every run below `root` (default: the runs folder) in order of start times, the newest last.

    A run whose process died is "interrupted", as for `RunFolder.status`.
    """
    top = os.path.abspath(root or runs_root())
    with without_garbage_collection():
        before, after, runs = read_cache(top), Rows(), []
        settled = time.time_ns() - UNSETTLED_NS
        for path in run_paths(top):
            stamp = stamp_of(path)
            if stamp[0] < 0:  # removed meanwhile
                continue
            known = before.get(path)
            if known is None or known[0] != stamp:
                known = (stamp, IndexedRun.read(path, os.path.relpath(path, top)))
            if max(stamp[::4]) < settled:
                after[path] = known
            runs.append(with_live_state(known[1]))
        changed = sum(row is not before.get(path) for path, row in after.items())
        if changed > len(after) * WRITE_FRACTION:
            write_cache(top, after)
        return sorted(runs, key=lambda run: (run.started, run.path))


def read_run(folder: RunFolder) -> IndexedRun:
    """One run, wherever it is, as in the index."""
    top, path = os.path.abspath(runs_root()), os.path.abspath(folder.path)
    reference = os.path.relpath(path, top) if is_within(path, top) else str(relative_to_cwd(Path(path)))
    return with_live_state(IndexedRun.read(path, reference))


def run_paths(top: str) -> Iterator[str]:
    """The folders below `top` that are runs, also behind links to folders elsewhere. Runs within runs, and hidden
    folders, are left out."""
    seen = {os.path.realpath(top)}
    folders = [top]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                found = [entry for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
        except OSError:  # removed meanwhile, or not readable
            continue
        for entry in found:
            if entry.is_symlink():
                target = os.path.realpath(entry.path)
                if any(is_within(target, other) or is_within(other, target) for other in seen):
                    continue  # it is listed already, or would be without end
                seen.add(target)
            if os.path.exists(f"{entry.path}/experiment.toml"):
                yield entry.path
            else:
                folders.append(entry.path)


def stamp_of(path: str) -> Stamp:
    """A copy may have the times of the original, but only the system sets the time of change of an inode."""
    stamp = []
    for name in FILES:
        try:
            found = os.stat(f"{path}/{name}")
            stamp += [found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino]
        except OSError:
            stamp += [-1, -1, -1, -1]
    return stamp


def with_live_state(row: IndexedRun) -> IndexedRun:
    """The row with its present state: whether the process of a running run still lives is never cached."""
    if row.state != "running":
        return row
    status = row.folder.status()
    return replace(row, state=status.state, cause=status.cause, reason=status.reason)


def read_cache(top: str) -> Rows:
    """What was read before; empty where the cache is missing or damaged, or where another version wrote it."""
    with suppress(OSError, RuntimeError, ValueError, TypeError, LookupError):
        checksum, _, content = read_bytes(cache_file(top)).partition(b"\n")
        if checksum == checksum_of(content):
            record = json.loads(content)
            if record["identity"] == identity_of(top):
                keys = record["keys"]
                return {row[0]: (stamp, unpacked(row, keys)) for stamp, row in record["rows"]}
    return {}


def write_cache(top: str, rows: Rows) -> None:
    keys: dict[tuple[str, ...], int] = {}
    values = [(stamp, packed(row, keys)) for stamp, row in rows.values()]
    with suppress(OSError, RuntimeError):  # a full or read-only disk, or no home: the next call takes as long
        record = {"identity": identity_of(top), "keys": list(keys), "rows": values}
        content = json.dumps(record, separators=(",", ":")).encode("ascii")
        file = cache_file(top)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, checksum_of(content) + b"\n" + content, 0o600)


def packed(row: IndexedRun, keys: dict[tuple[str, ...], int]) -> list[Any]:
    """The fields of a row, each mapping as the index of its keys and its values: most runs have the same keys."""
    values = [getattr(row, name) for name in COLUMNS]
    for at in MAPPINGS:
        values[at] = [keys.setdefault(tuple(values[at]), len(keys)), *values[at].values()]
    return values


def unpacked(values: list[Any], keys: list[list[str]]) -> IndexedRun:
    for at in MAPPINGS:
        index, *of_mapping = values[at]
        values[at] = dict(zip(keys[index], of_mapping, strict=True))
    return IndexedRun(*values)


def identity_of(top: str) -> list[object]:
    """What the rows of a cache depend on besides the runs: the code that reads them, of whichever version."""
    sources = [os.stat(module.__file__ or "") for module in (indexed_run, recorded_values, notes)]
    return [top, list(COLUMNS), [[source.st_mtime_ns, source.st_size] for source in sources]]


def checksum_of(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode("ascii")


def cache_file(top: str) -> Path:
    """Raises RuntimeError without a home."""
    return cache_dir() / "runs" / f"{hashlib.sha256(os.fsencode(top)).hexdigest()[:16]}.json"
