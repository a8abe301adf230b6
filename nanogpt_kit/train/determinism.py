"""Compiled code on a CPU adds in one order, so that a run has the same bits each time.

Where several threads compute a window together, the gradient of an embedding would be compiled to atomic additions: the
rows of a token that occurs several times would be added in the order in which threads arrive.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def add_in_one_order() -> None:
    """From now on; called when a run is compiled, since it imports the compiler."""
    deterministic: Any = torch.utils.deterministic
    deterministic.fill_uninitialized_memory = False  # which would take time for every new tensor
    torch.use_deterministic_algorithms(True, warn_only=True)


@contextmanager
def restored_determinism() -> Iterator[None]:
    """Afterwards torch's settings are what they were, if `add_in_one_order` was called meanwhile."""
    deterministic: Any = torch.utils.deterministic
    fills, warns = deterministic.fill_uninitialized_memory, torch.is_deterministic_algorithms_warn_only_enabled()
    before = torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        if torch.are_deterministic_algorithms_enabled() != before:
            torch.use_deterministic_algorithms(before, warn_only=warns)
        deterministic.fill_uninitialized_memory = fills
