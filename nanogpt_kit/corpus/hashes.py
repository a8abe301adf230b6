"""What files hold, as a hash: asked at every start, and so remembered for large files that did not change."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.reading import read_bytes, sha256_file
from nanogpt_kit.core.system import cache_dir
from nanogpt_kit.core.writing import write_atomically

REMEMBERED_BYTES = 16_000_000  # from this size on; smaller files are hashed in a hundredth of a second
RECENT_SECONDS = 2  # clocks of file systems are this coarse: a file as young could change again unseen


def content_hash(path: str | Path) -> str:
    """The SHA-256 of a file. Raises KitError where it cannot be read."""
    try:
        return answer(Path(path), "sha256", sha256_file)
    except OSError as error:
        raise KitError(Fault(f"cannot be read: {error.strerror}", location=str(path))) from None


def answer(path: Path, question: str, read: Callable[[Path], str], anew: bool = False) -> str:
    """What `read` finds in a file; from memory where the file is large, unchanged and was asked the same `question`.

    With `anew` the file is read whatever is remembered. Raises OSError as `read` does.
    """
    path = path.absolute()
    before = path.stat()
    if before.st_size < REMEMBERED_BYTES:
        return read(path)
    state = state_of(before)
    known = remembered().get(str(path), [])
    if known[:-1] == state and question in known[-1] and not anew:
        return str(known[-1][question])
    began = time.time()
    found = read(path)
    if began - before.st_mtime >= RECENT_SECONDS:
        remember(path, question, found, state)
    return found


def state_of(status: os.stat_result) -> list[int]:
    """What differs once a file has changed."""
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def memory() -> Path:
    return cache_dir() / "hashes.json"


def remembered() -> dict[str, list[Any]]:
    """Path -> its state, then its answers by question; empty where there is nothing, or nothing that can be read."""
    try:
        known = json.loads(read_bytes(memory()))
        return {path: entry for path, entry in known.items() if is_entry(entry)}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def is_entry(entry: object) -> bool:
    return isinstance(entry, list) and len(entry) == 4 and isinstance(entry[-1], dict)


def remember(path: Path, question: str, found: str, state: list[int] | None = None) -> None:
    """What the answer is as long as a large file's `state` is this; left out: as it is now.

    Files that are gone are forgotten. A folder that cannot be written to costs time only.
    """
    path = path.absolute()
    with contextlib.suppress(OSError):
        state = state or state_of(path.stat())
        if state[0] < REMEMBERED_BYTES:
            return
        known = {name: entry for name, entry in remembered().items() if os.path.exists(name)}
        old = known.get(str(path), [])
        answers = {**old[-1], question: found} if old[:-1] == state else {question: found}
        known[str(path)] = [*state, answers]
        memory().parent.mkdir(parents=True, exist_ok=True)
        write_atomically(memory(), json.dumps(known, indent=0), mode=0o600)
