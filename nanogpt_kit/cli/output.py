"""Standard output and standard error whose reader may close them, or whose disk may be full.

A closed pipe ends most commands without a message, as `head` expects. Commands that run for hours continue.
"""

from __future__ import annotations

import errno
import io
import sys
from typing import Any, TextIO

CLOSED = (errno.EPIPE, errno.EIO)  # a pipe without a reader, a terminal that was closed


class OutputClosed(Exception):
    """The reader of the output has closed it. Not a BrokenPipeError, for which click and rich exit with code 1."""


class OutputFile(io.FileIO):
    """A descriptor of this process. If it `continues`, data that cannot be written is dropped; `error` says why."""

    def __init__(self, descriptor: int, continues: bool) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self.continues = continues
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                return super().write(data) or 0
            except OSError as error:
                self.error = error
        if self.continues:
            return memoryview(data).nbytes
        if self.error.errno in CLOSED:
            raise OutputClosed
        raise OSError(self.error.errno, self.error.strerror, "standard output")


def is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()  # None: it was closed before Python started


def replace_standard_streams() -> None:
    """Replaces sys.stdout and sys.stderr. A closed standard error never ends a command."""
    sys.stdout, sys.stderr = reopen_stream(sys.stdout, 1, continues=False), reopen_stream(sys.stderr, 2, continues=True)


def reopen_stream(stream: TextIO, descriptor: int, continues: bool) -> TextIO:
    """The same stream, writing to an OutputFile."""
    if not isinstance(stream, io.TextIOWrapper):  # None, if it was closed before Python started
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(OutputFile(descriptor, continues)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def continue_without_reader() -> None:
    """Lets this command continue when standard output is closed: its results matter more than its output."""
    if (file := stdout_file()) is not None:
        file.continues = True


def check_written(stdout: TextIO) -> None:
    """Raises OSError where the disk behind standard output is full, as by a command that does not continue then."""
    error = getattr(getattr(getattr(stdout, "buffer", None), "raw", None), "error", None)
    if error is not None and error.errno not in CLOSED:
        raise OSError(error.errno, error.strerror, "standard output")


def stdout_error() -> OSError | None:
    """Flushes standard output; the error if part of it was not written, else None. A closed pipe is not an error."""
    file = stdout_file()
    if file is None:
        return None
    file.continues = True
    sys.stdout.flush()
    return None if file.error is None or file.error.errno in CLOSED else file.error


def stdout_file() -> OutputFile | None:
    file = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return file if isinstance(file, OutputFile) else None
