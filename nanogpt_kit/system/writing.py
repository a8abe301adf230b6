"""Writing so that a power cut leaves the old file or the new one, never half of either."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

TEMPORARY = r"\.%s\.[0-9a-f]{16}\.tmp"  # %s: pattern of the name of the file


def write_atomically(path: Path, content: str | bytes, mode: int = 0o666) -> None:
    """Writes a file that appears complete or not at all, and survives a power cut.

    It is written as a temporary file with a random name, so nobody can have put a link there, and then renamed. `mode`
    are its permissions before the umask.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(temporary, flags | getattr(os, "O_BINARY", 0), mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def remove_temporary_files(folder: Path, of: str = "") -> None:
    """Removes temporary files of `write_atomically` in killed processes: all, or those of the file named `of`.

    Only for the one process that writes there, or that file.
    """
    name = re.compile(TEMPORARY % (re.escape(of) or ".+"), re.DOTALL)
    with os.scandir(folder) as entries:
        left = [entry.path for entry in entries if name.fullmatch(entry.name) and not entry.is_dir()]
    for path in left:
        os.unlink(path)


def sync_file(path: Path) -> None:
    """Flushes the content of a file to the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Makes renames in a folder durable. Windows has no such call, and needs none."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
