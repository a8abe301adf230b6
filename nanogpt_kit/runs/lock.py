"""A lock that the system drops when its holder dies, however it dies."""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType

if sys.platform != "win32":
    import fcntl
else:
    import msvcrt


class Lock:
    """`with Lock(path):` raises BlockingIOError where another process holds it, or waits for that one to end."""

    def __init__(self, path: Path, wait: bool = False) -> None:
        self.path = path
        self.wait = wait

    def __enter__(self) -> Lock:
        self.file = self.path.open("ab")
        try:
            if sys.platform != "win32":
                fcntl.flock(self.file, fcntl.LOCK_EX | (0 if self.wait else fcntl.LOCK_NB))
            else:
                msvcrt.locking(self.file.fileno(), msvcrt.LK_LOCK if self.wait else msvcrt.LK_NBLCK, 1)
        except OSError as error:
            self.file.close()
            raise BlockingIOError(f"{self.path} is held by another process") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.file.close()


def held(path: Path) -> bool:
    """Whether some process holds the lock."""
    if not path.exists():
        return False
    try:
        with Lock(path):
            return False
    except BlockingIOError:
        return True
