"""A line on the terminal about what a command is doing, where that takes long."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import click

PATIENCE_SECONDS = 1.5  # importing torch takes one second of an idle core


@contextmanager
def note_if_slow(text: str, seconds: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Prints `text` on stderr, if that is a terminal, once the block has taken `seconds`."""
    if not (sys.stderr and sys.stderr.isatty()):
        yield
        return
    timer = threading.Timer(seconds, click.echo, [text], {"err": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
