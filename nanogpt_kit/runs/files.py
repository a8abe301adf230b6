"""Checks of the folders and files that are written to."""

from __future__ import annotations

import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from nanogpt_kit.core.errors import KitError


def is_folder(path: Path) -> bool:
    """True for a folder, but not for a link to one."""
    return path.is_dir() and not is_link(path)


def is_file(path: Path) -> bool:
    """True for a file, but not for a link to one."""
    return path.is_file() and not is_link(path)


def is_link(path: Path) -> bool:
    """True for a symbolic link and for a junction of Windows."""
    return path.is_symlink() or getattr(path, "is_junction", bool)()  # since Python 3.12


def check_inside(folder: Path, besides: str = "") -> None:
    """Raises KitError where `folder` contains a link, a FIFO or a device: writing there would change files elsewhere.

    Folders whose name matches `besides` are not searched. The folder itself may be a link.
    """
    for path in sorted(folder.iterdir()):
        check_not_link(path)
        if is_folder(path) and not fnmatch(path.name, besides):
            check_inside(path)


def check_not_link(path: Path) -> None:
    """Raises KitError where it is not a regular file or a folder, but a link, a FIFO or a device."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:  # a temporary file of another process
        return
    if is_link(path) or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kind = "a link" if is_link(path) else "neither a file nor a folder"
        remedy = "remove it, or put a file or folder in its place"
        raise KitError(f"{path} is {kind}, so writing there would change something elsewhere; {remedy}")


@contextmanager
def git_ignored_folder(folder: Path) -> Iterator[None]:
    """Creates the folder, ignored by git, unless it exists; on exit a new folder that is still empty is removed."""
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    if is_new:
        (folder / ".gitignore").write_text("*\n")  # otherwise the patch of each run would contain all earlier runs
    try:
        yield
    finally:
        if is_new and all(path.name == ".gitignore" for path in folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)


def check_writable(folder: Path, variable: str | None = None) -> None:
    """Raises KitError where `folder` could not be written to. It need not exist yet.

    `variable` is the environment variable that names another folder.
    """
    nearest = folder.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    try:
        with tempfile.TemporaryFile(dir=nearest):  # without a name: a kill leaves nothing, and nobody else sees it
            pass
    except OSError as error:
        remedy = f"; set {variable} to another folder" if variable else ""
        raise KitError(f"cannot write to {folder}: {error.strerror} ({nearest}){remedy}") from None
