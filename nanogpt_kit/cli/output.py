"""Standard output and standard error whose reader may go away, or whose disk may be full.

A closed pipe ends most commands quietly, as `head` expects it. Those that work for hours continue.
"""

from __future__ import annotations

import errno
import io
import sys
from typing import Any, TextIO

CLOSED = (errno.EPIPE, errno.EIO)  # a pipe without a reader, a terminal that has gone


class OutputClosed(Exception):
    """Nobody reads what the command prints. Not a BrokenPipeError, which click and rich answer with exit code 1."""


class OutputFile(io.FileIO):
    """A descriptor of this process. `continues`: what cannot be written is dropped, and `fault` says why."""

    def __init__(self, descriptor: int, continues: bool) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self.continues = continues
        self.fault: OSError | None = None

    def write(self, data: Any) -> int:
        if self.fault is None:
            try:
                return super().write(data) or 0
            except OSError as error:
                self.fault = error
        if self.continues:
            return memoryview(data).nbytes
        if self.fault.errno in CLOSED:
            raise OutputClosed
        raise OSError(self.fault.errno, self.fault.strerror, "standard output")


def install() -> None:
    """Replaces those of this process. Errors and progress are never worth ending a command."""
    sys.stdout, sys.stderr = reopened(sys.stdout, 1, continues=False), reopened(sys.stderr, 2, continues=True)


def reopened(stream: TextIO, descriptor: int, continues: bool) -> TextIO:
    if not isinstance(stream, io.TextIOWrapper):  # None, where it was closed before Python began
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(OutputFile(descriptor, continues)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def continue_unread() -> None:
    """For a command whose work matters more than what it prints."""
    if (raw := raw_stdout()) is not None:
        raw.continues = True


def fault() -> OSError | None:
    """Why not all that was printed reached standard output; None where only its reader has gone. Flushes it."""
    raw = raw_stdout()
    if raw is None:
        return None
    raw.continues = True
    sys.stdout.flush()
    return None if raw.fault is None or raw.fault.errno in CLOSED else raw.fault


def raw_stdout() -> OutputFile | None:
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw if isinstance(raw, OutputFile) else None
