"""JSON files, and checks of the folders that a run writes to."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.reading import read_text
from nanogpt_kit.core.writing import write_atomically


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
