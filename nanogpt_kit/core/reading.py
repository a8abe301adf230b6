"""Reading a whole file that somebody else may have made: a regular file, of bounded size, or an OSError that says why.

Opening a FIFO waits for its writer, and a device such as /dev/zero has no end: both are refused before a byte is read.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

MOST_BYTES = 1 << 30  # far above the largest record: metrics of 600k logged steps are 0.25 GB, a tokenizer 0.04 GB
PIECE_BYTES = 1 << 20
# O_NONBLOCK: opening a FIFO returns at once; O_NOCTTY: a terminal does not become ours. Windows lacks all but O_BINARY.
FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY"))


def open_regular(path: Path) -> BufferedReader:
    """A regular file, open for reading. Raises OSError for anything else, and ValueError for a name with NUL in it."""
    descriptor = os.open(path, FLAGS)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """A whole regular file of at most `most` bytes. Raises OSError as `open_regular` does, and where it is larger."""
    content = bytearray()
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size <= most:
            while len(content) <= most and (piece := file.read(PIECE_BYTES)):
                content += piece
            if len(content) <= most:
                return bytes(content)
    raise OSError(errno.EFBIG, f"larger than {most:,} bytes", str(path))


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """The same in UTF-8, to the byte. Raises UnicodeDecodeError, which is a ValueError, where it is not."""
    return read_bytes(path, most).decode("utf-8")
