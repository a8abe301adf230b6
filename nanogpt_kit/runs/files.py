"""Writing so that a power cut leaves the old file or the new one, never half of either."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.reading import open_regular, read_text

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.tmp", re.DOTALL)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Through a temporary file beside it, whose name cannot be guessed: nobody can have put a link there."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(temporary, flags | getattr(os, "O_BINARY", 0), 0o666)  # less what the umask takes
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def clear_temporary(folder: Path) -> None:
    """Removes what killed processes left of `write_atomically`. Called by the one process that may write there."""
    with os.scandir(folder) as entries:
        left = [entry.path for entry in entries if TEMPORARY.fullmatch(entry.name) and not entry.is_dir()]
    for path in left:
        os.unlink(path)


def write_json(path: Path, values: Any) -> None:
    """In UTF-8; in ASCII where a file name among the values is not UTF-8, which Python has as lone surrogates."""
    text = json.dumps(values, indent=2, ensure_ascii=False)
    try:
        content = text.encode("utf-8")
    except UnicodeEncodeError:
        content = json.dumps(values, indent=2).encode("ascii")
    write_atomically(path, content + b"\n")


def read_json(path: Path) -> Any:
    """Whatever the JSON is; callers check that. Raises only OSError and ValueError, whatever the file contains."""
    try:
        return json.loads(read_text(path))
    except RecursionError:
        raise ValueError("too deeply nested") from None


def sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Makes renames in a folder last. Windows has no such call, and needs none."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sha256(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_folder(path: Path) -> bool:
    """And not a link to one, nor a junction of Windows."""
    return path.is_dir() and not is_link(path)


def is_file(path: Path) -> bool:
    """A regular file, and not a link to one."""
    return path.is_file() and not is_link(path)


def is_link(path: Path) -> bool:
    return path.is_symlink() or getattr(path, "is_junction", bool)()  # a junction: Python 3.12


def check_inside(folder: Path, besides: str = "") -> None:
    """Raises KitError where something in `folder` is a link, a FIFO or a device: writing there would change something
    elsewhere. Folders of a name like `besides` are not looked into. The folder itself may be a link.
    """
    for path in sorted(folder.iterdir()):
        check_plain(path)
        if is_folder(path) and not fnmatch(path.name, besides):
            check_inside(path)


def check_plain(path: Path) -> None:
    """Raises KitError where it is neither a file nor a folder, but a link to one, for instance."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:  # a temporary one, of a process beside this one
        return
    if is_link(path) or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kind = "a link" if is_link(path) else "neither a file nor a folder"
        remedy = "remove it, or put a file or folder in its place"
        raise KitError(f"{path} is {kind}, so what is written there would go elsewhere; {remedy}")


@contextmanager
def git_ignored_folder(folder: Path) -> Iterator[None]:
    """Makes a folder that git is told to ignore, where there is none; it goes again if nothing came into it."""
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    if is_new:
        (folder / ".gitignore").write_text("*\n")  # else the patch of each run would hold all runs before it
    try:
        yield
    finally:
        if is_new and all(path.name == ".gitignore" for path in folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)


def check_writable(folder: Path) -> None:
    """Raises KitError where nothing could be written below `folder`, which need not exist yet."""
    nearest = folder.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    try:
        os.rmdir(tempfile.mkdtemp(dir=nearest))
    except OSError as error:
        raise KitError(f"cannot write to {folder}: {error.strerror} ({nearest})") from None
