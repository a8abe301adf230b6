"""Checks of the files of prepared data against their manifest; the result for a large file is cached."""

from __future__ import annotations

import hashlib
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nanogpt_kit.corpus import hashes
from nanogpt_kit.system.reading import open_regular_file

READ_BYTES = 1 << 20  # a multiple of every dtype's width


@dataclass(frozen=True)
class DataFile:
    """Integers of one type. Their values are checked as well as the hash: whoever wrote the hash may be wrong."""

    path: Path
    dtype: str
    count: int
    sha256: str
    limit: int  # every integer is below it
    ascending: bool  # no integer is below the one before it

    @property
    def size(self) -> int:
        """Bytes."""
        return np.dtype(self.dtype).itemsize * self.count

    @property
    def cache_key(self) -> str:
        """The checks that a cached result stands for."""
        return f"{self.dtype} below {self.limit}{', ascending' * self.ascending}"

    def find_damage(self, reread: bool = False) -> str | None:
        """What is wrong with the file; None where nothing is.

        A large file that did not change since it was last read is read again only with `reread`.
        """
        try:
            status = self.path.stat()
            if not stat.S_ISREG(status.st_mode):
                return "is not a regular file"
            if status.st_size != self.size:
                return f"has {status.st_size} bytes instead of {self.size}"
            sha256, _, invalid = hashes.cached_result(self.path, self.cache_key, self.hash_and_check, reread).partition(
                " "
            )
        except FileNotFoundError:
            return "is missing"
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        if sha256 != self.sha256:
            return f"is not what was written: its SHA-256 is {sha256}, and the manifest records {self.sha256}"
        return invalid or None

    def cache_hash(self) -> None:
        """Caches the hash without reading the file. Called by the process that wrote it."""
        hashes.save_to_cache(self.path, self.cache_key, self.sha256)

    def hash_and_check(self, path: Path) -> str:
        """The SHA-256 and, after a space, a sentence about the first invalid integer if there is one."""
        digest, invalid, index, previous = hashlib.sha256(), "", 0, np.zeros(1, self.dtype)
        width = previous.itemsize
        with open_regular_file(path) as file:
            while raw := file.read(READ_BYTES):
                digest.update(raw)
                values = np.frombuffer(raw, self.dtype, len(raw) // width)
                if not invalid and len(values):
                    invalid = self.first_invalid(values, previous, index)
                    previous = values[-1:]
                    index += len(values)
        return digest.hexdigest() + invalid

    def first_invalid(self, values: np.ndarray, previous: np.ndarray, index: int) -> str:
        """A sentence about the first invalid value; "" where all are valid.

        `index` is that of the first of the values; `previous` (1,) is the value before it.
        """
        is_invalid = values >= self.limit
        if self.ascending:
            is_invalid |= values < np.concatenate([previous, values[:-1]])
        if not is_invalid.any():
            return ""
        at = int(np.argmax(is_invalid))
        allowed = f"only numbers below {self.limit} are valid{', in ascending order' * self.ascending}"
        return f" has {values[at]} at position {index + at}, and {allowed}"
