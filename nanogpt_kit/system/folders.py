"""The user's folders and the cores that this process may use; what lies within a folder, and its size."""

from __future__ import annotations

import os
from pathlib import Path


def state_dir() -> Path:
    """The folder of data worth keeping: consents, prompt history, machine slots. Raises RuntimeError without a home.

    Source: XDG Base Directory Specification.
    """
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "nanogpt-kit"


def cache_dir() -> Path:
    """The folder of data that can be downloaded or computed again. Raises RuntimeError without a home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nanogpt-kit"


def available_cores() -> list[int]:
    """Indices of the cores that this process may use; taskset and containers may allow it only some of them."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def is_within(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or below it; both are absolute."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def folder_bytes(folder: Path) -> int:
    """The bytes of all files below a folder, links not followed; 0 for what is removed meanwhile."""
    total, folders = 0, [os.fspath(folder)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    return total
