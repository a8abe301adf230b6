"""A lock that the system drops when its holder dies, however it dies."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType

if sys.platform != "win32":
    import fcntl
else:
    import msvcrt


class Lock:
    """`with Lock(path):` raises BlockingIOError where another process holds it.

    With `wait` it waits for that one to end instead, and the file of the lock goes when the lock is dropped.
    """

    def __init__(self, path: Path, wait: bool = False) -> None:
        self.path = path
        self.wait = wait

    def __enter__(self) -> Lock:
        while True:
            self.file = self.path.open("ab")
            try:
                take(self.file.fileno(), self.wait)
            except OSError as error:
                self.file.close()
                raise BlockingIOError(f"{self.path} is held by another process") from error
            if not self.wait or self._is_still_the_file():
                return self
            self.file.close()  # its last holder removed it while we waited: begin again with the new one

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.wait:
            with suppress(PermissionError):  # Windows keeps a file that is open
                self.path.unlink(missing_ok=True)
        self.file.close()

    def _is_still_the_file(self) -> bool:
        try:
            return self.path.stat().st_ino == os.fstat(self.file.fileno()).st_ino
        except FileNotFoundError:
            return False


def take(descriptor: int, wait: bool) -> None:
    if sys.platform != "win32":
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    else:
        msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)


def held(path: Path) -> bool:
    """Whether some process holds the lock. Needs no right to write."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        try:
            take(file.fileno(), wait=False)
        except OSError:
            return True
    return False
