"""The user's folders and the cores that this process may use."""

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
