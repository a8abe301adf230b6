"""Reading whole files that somebody else may have made: regular files of bounded size; anything else is an OSError.

Opening a FIFO waits for its writer, and a device such as /dev/zero has no end: both are refused before a byte is read.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from io import BufferedReader
from pathlib import Path

MAX_BYTES = 1 << 30  # far above the largest record: metrics of 600k logged steps are 0.25 GB, a tokenizer 0.04 GB
CHUNK_BYTES = 1 << 20
# O_NONBLOCK: opening a FIFO returns at once. O_NOCTTY: no terminal becomes the controlling one. Windows: O_BINARY only.
FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY"))


def open_regular_file(path: Path) -> BufferedReader:
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


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """The content of a regular file. Raises OSError as `open_regular_file` does, and for more than `limit` bytes."""
    content = bytearray()
    with open_regular_file(path) as file:
        if os.fstat(file.fileno()).st_size <= limit:
            while len(content) <= limit and (chunk := file.read(CHUNK_BYTES)):
                content += chunk
            if len(content) <= limit:
                return bytes(content)
    raise OSError(errno.EFBIG, f"larger than {limit:,} bytes", str(path))


def read_text(path: Path, limit: int = MAX_BYTES) -> str:
    """The content decoded as UTF-8, newlines unchanged. Raises as `read_bytes` does, and UnicodeDecodeError."""
    return read_bytes(path, limit).decode("utf-8")


def sha256_file(path: Path) -> str:
    """The SHA-256 of a regular file. Raises OSError as `open_regular_file` does."""
    with open_regular_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
