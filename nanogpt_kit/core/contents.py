"""What files hold, as a hash: told at every start, and so remembered for large files that did not change."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from nanogpt_kit.core.errors import Fault, KitError

REMEMBERED_BYTES = 16_000_000  # from this size on; smaller files are hashed in a hundredth of a second
RECENT_SECONDS = 2  # clocks of file systems are this coarse: a file as young could change again unseen


def content_hash(path: str | Path) -> str:
    """The SHA-256 of a file. Raises KitError where it cannot be read."""
    try:
        return told(Path(path).absolute())
    except OSError as error:
        raise KitError(Fault(f"cannot be read: {error.strerror}", place=str(path))) from None


def told(path: Path) -> str:
    """From memory where the file is large and as it was."""
    before = path.stat()
    if before.st_size < REMEMBERED_BYTES:
        return hashed(path)
    state = state_of(before)
    *known, digest = remembered().get(str(path), [None])
    if known == state:
        return str(digest)
    began = time.time()
    digest = hashed(path)
    if began - before.st_mtime >= RECENT_SECONDS:
        remember(str(path), [*state, digest])
    return digest


def hashed(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state_of(status: os.stat_result) -> list[int]:
    """What differs once a file has changed."""
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def memory() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nanogpt-kit" / "hashes.json"


def remembered() -> dict[str, list[Any]]:
    """Path -> its state and its hash; empty where there is nothing, or nothing that can be read."""
    try:
        known = json.loads(memory().read_bytes())
        return {path: entry for path, entry in known.items() if isinstance(entry, list) and len(entry) == 4}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def remember(path: str, entry: list[Any]) -> None:
    """Files that are gone are forgotten. A folder that cannot be written to costs time only."""
    known = {name: old for name, old in remembered().items() if os.path.exists(name)} | {path: entry}
    partial = memory().with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(known, indent=0), encoding="utf-8")
        partial.replace(memory())
