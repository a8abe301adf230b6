"""A line on the terminal about what a command is doing, where that takes long."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from nanogpt_kit.system.late_call import call_if_slow

PATIENCE_SECONDS = 1.5  # importing torch takes one second of an idle core


@contextmanager
def note_if_slow(text: str, seconds: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Prints `text` on stderr, if that is a terminal, once the block has taken `seconds`."""
    if not (sys.stderr and sys.stderr.isatty()):
        yield
        return
    with call_if_slow(seconds, functools.partial(click.echo, text, err=True)):
        yield
