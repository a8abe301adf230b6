"""SHA-256 of files. Each start of a run needs it, so results for large files are cached until the file changes."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.system.folders import cache_dir
from nanogpt_kit.system.reading import read_bytes, sha256_file
from nanogpt_kit.system.writing import write_atomically

CACHED_FROM_BYTES = 16_000_000  # smaller files are hashed in a hundredth of a second
RECENT_SECONDS = 2  # file systems' clocks are this coarse: a younger file could change again unnoticed


def content_hash(path: str | Path) -> str:
    """The SHA-256 of a file. Raises KitError where it cannot be read."""
    try:
        return cached_result(Path(path), "sha256", sha256_file)
    except OSError as error:
        raise KitError(Fault(f"cannot be read: {error.strerror}", location=str(path))) from None


def cached_result(path: Path, key: str, compute: Callable[[Path], str], recompute: bool = False) -> str:
    """`compute(path)`; cached under `key` for a large file until the file changes.

    With `recompute` the cache is not read. Raises OSError as `compute` does.
    """
    path = path.absolute()
    before = path.stat()
    if before.st_size < CACHED_FROM_BYTES:
        return compute(path)
    state = file_state(before)
    entry = load_cache().get(str(path), [])
    if entry[:-1] == state and key in entry[-1] and not recompute:
        return str(entry[-1][key])
    started = time.time()
    result = compute(path)
    if started - before.st_mtime >= RECENT_SECONDS:
        save_to_cache(path, key, result, state)
    return result


def file_state(status: os.stat_result) -> list[int]:
    """Values that differ once a file has changed."""
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def cache_file() -> Path:
    return cache_dir() / "hashes.json"


def load_cache() -> dict[str, list[Any]]:
    """path -> [size, mtime, inode, {key: result}]; empty where there is no cache, or none that can be read."""
    try:
        entries = json.loads(read_bytes(cache_file()))
        return {path: entry for path, entry in entries.items() if is_entry(entry)}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def is_entry(entry: object) -> bool:
    return isinstance(entry, list) and len(entry) == 4 and isinstance(entry[-1], dict)


def save_to_cache(path: Path, key: str, result: str, state: list[int] | None = None) -> None:
    """Caches a large file's `result` as long as its state is `state`; None: its current one.

    Entries of deleted files are dropped. A cache that cannot be written costs only time.
    """
    path = path.absolute()
    with contextlib.suppress(OSError):
        state = state or file_state(path.stat())
        if state[0] < CACHED_FROM_BYTES:
            return
        entries = {name: entry for name, entry in load_cache().items() if os.path.exists(name)}
        old = entries.get(str(path), [])
        results = {**old[-1], key: result} if old[:-1] == state else {key: result}
        entries[str(path)] = [*state, results]
        cache_file().parent.mkdir(parents=True, exist_ok=True)
        write_atomically(cache_file(), json.dumps(entries, indent=0), mode=0o600)
