"""How many runs of the same graph follow this one, as a study expects: they share what compiling it costs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

RUNS_TO_COME = "NANOGPT_KIT_RUNS_TO_COME"  # a variable, so that the processes of a run inherit it


def runs_to_come() -> int:
    """0 where nothing is expected, or where the variable has another meaning than a count."""
    text = os.environ.get(RUNS_TO_COME, "")
    return int(text) if text.isascii() and text.isdecimal() else 0


@contextmanager
def expected_runs(count: int) -> Iterator[None]:
    """While entered, runs of this process and of those that it starts expect `count` more of their graph."""
    before = os.environ.get(RUNS_TO_COME)
    os.environ[RUNS_TO_COME] = str(count)
    try:
        yield
    finally:
        os.environ.pop(RUNS_TO_COME)
        if before is not None:
            os.environ[RUNS_TO_COME] = before
