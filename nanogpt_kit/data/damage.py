"""Whether a file of prepared data is what its manifest recorded: read once, and remembered where it is large."""

from __future__ import annotations

import hashlib
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nanogpt_kit.core.reading import open_regular
from nanogpt_kit.corpus import hashes

PIECE_BYTES = 1 << 20  # a multiple of every type's width


@dataclass(frozen=True)
class DataFile:
    """Whole numbers of one type. A hash alone does not say that they are ids and places: who wrote it may be wrong."""

    path: Path
    dtype: str
    count: int
    sha256: str
    limit: int  # above the largest number that may be in it
    ascends: bool  # whether no number may be below the one before it

    @property
    def size(self) -> int:
        """Bytes."""
        return np.dtype(self.dtype).itemsize * self.count

    @property
    def question(self) -> str:
        """What has to be asked again where a file stays and its meaning changes."""
        return f"{self.dtype} below {self.limit}{', ascending' * self.ascends}"

    def damage(self, anew: bool = False) -> str | None:
        """What is wrong with the file; None where nothing is.

        A large file that is as it was when it was last read is read again only with `anew`.
        """
        try:
            status = self.path.stat()
            if not stat.S_ISREG(status.st_mode):
                return "is not a regular file"
            if status.st_size != self.size:
                return f"has {status.st_size} bytes instead of {self.size}"
            found, _, wrong = hashes.answer(self.path, self.question, self.read, anew).partition(" ")
        except FileNotFoundError:
            return "is missing"
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        if found != self.sha256:
            return f"is not what was written: its SHA-256 is {found}, and the manifest says {self.sha256}"
        return wrong or None

    def remember(self) -> None:
        """For the process that wrote the file: so it need not read it, too."""
        hashes.remember(self.path, self.question, self.sha256)

    def read(self, path: Path) -> str:
        """The SHA-256, and after a blank the first number that cannot be right, if there is one."""
        digest, wrong, at, before = hashlib.sha256(), "", 0, np.zeros(1, self.dtype)
        width = before.itemsize
        with open_regular(path) as file:
            while piece := file.read(PIECE_BYTES):
                digest.update(piece)
                values = np.frombuffer(piece, self.dtype, len(piece) // width)
                if not wrong and len(values):
                    wrong = self.first_wrong(values, before, at)
                    before = values[-1:]
                    at += len(values)
        return digest.hexdigest() + wrong

    def first_wrong(self, values: np.ndarray, before: np.ndarray, at: int) -> str:
        """`values` stand at `at` and after, `before` (1,) in front of them."""
        is_wrong = values >= self.limit
        if self.ascends:
            is_wrong |= values < np.concatenate([before, values[:-1]])
        if not is_wrong.any():
            return ""
        place = int(np.argmax(is_wrong))
        why = f"only numbers below {self.limit} can be there"
        return f" has {values[place]} at position {at + place}, and {why}{', ascending' * self.ascends}"
