"""Files of an unfinished preparation: opened again, and cut off after the last shard that is whole."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any


class StalePreparation(Exception):
    """An unfinished preparation that cannot be continued: its text or vocabulary has changed, or it is damaged."""


def reopen_truncated(path: Path, size: int, stack: ExitStack) -> tuple[IO[bytes], Any]:
    """A file to append to after its first `size` bytes, and the running SHA-256 of these.

    Bytes after the last whole shard are cut off. Links are not followed: they may lead to another user's files. Raises
    StalePreparation where bytes are missing.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise StalePreparation(f"its {path.name} is not a regular file")
    path.touch()
    file = stack.enter_context(path.open("rb+"))
    if path.stat().st_size < size:
        raise StalePreparation(f"its {path.name} has lost bytes")
    file.truncate(size)
    digest = hashlib.sha256()
    while raw := file.read(1 << 20):
        digest.update(raw)
    return file, digest
