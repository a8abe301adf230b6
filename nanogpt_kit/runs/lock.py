"""A lock that the system drops when its holder dies, however it dies; and a look at one that takes nothing.

On Linux it is an open file description lock: like flock's it belongs to an open file, so that two threads of a process
exclude each other and closing another file of the same name drops nothing; unlike flock's it can be asked for without
being taken (F_OFD_GETLK of fcntl(2)). Over NFS both are locks of the server.

Where the system or the file system has none of them, the lock is flock's or, on Windows, that of msvcrt. A look then
takes it for an instant (with flock together with others who look), so a start tries again for a moment before it
reports the lock as taken.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO
from weakref import WeakSet

from nanogpt_kit.core.errors import KitError

if sys.platform != "win32":
    import fcntl
else:
    import msvcrt

HELD = (errno.EAGAIN, errno.EACCES)
NO_OFD = (errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of a system or a file system that has none
FLOCK = "hhqqi4x"  # struct flock of Linux: type, whence, start, length (0: to the end), process
MOMENT_SECONDS = 1.0  # until those who only look have closed the file
PAUSE_SECONDS = 0.001  # between two tries

opened: WeakSet[IO[bytes]] = WeakSet()  # the files of this process's locks


class Lock:
    """`with Lock(path):` raises BlockingIOError where another holds it, and KitError where nothing can be locked.

    With `wait` it waits for the other to end instead, and the file of the lock goes when the lock is dropped.
    """

    def __init__(self, path: Path, wait: bool = False) -> None:
        self.path = path
        self.wait = wait

    def __enter__(self) -> Lock:
        while True:
            self.file = os.fdopen(open_lock_file(self.path, os.O_RDWR | os.O_CREAT), "r+b", buffering=0)
            opened.add(self.file)
            try:
                take(self.file.fileno(), self.wait)
            except OSError as error:
                self.file.close()
                if error.errno in HELD:
                    raise BlockingIOError(error.errno, f"{self.path} is held by another process") from error
                raise KitError(f"{self.path} cannot be locked: {error.strerror}") from error
            except BaseException:  # a signal, while it waits
                self.file.close()
                raise
            if not self.wait or self._is_still_the_file():
                return self
            self.file.close()  # its last holder removed it while we waited: begin again with the new one

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.wait and not self.file.closed:  # else in a forked process, which has no lock
            with suppress(PermissionError):  # Windows keeps a file that is open
                self.path.unlink(missing_ok=True)
        self.file.close()

    def _is_still_the_file(self) -> bool:
        try:
            return self.path.stat().st_ino == os.fstat(self.file.fileno()).st_ino
        except FileNotFoundError:
            return False


def close_in_child() -> None:
    """A forked process shares the open file, and so the lock: it would keep the lock of a parent that was killed."""
    for file in list(opened):
        file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=close_in_child)


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock. Takes nothing where the system lets one look, and needs no right to write.

    Raises KitError where that cannot be known.
    """
    try:
        descriptor = open_lock_file(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return is_taken(descriptor)
    except OSError as error:
        raise KitError(f"{path}: whether it is locked cannot be known: {error.strerror}") from error
    finally:
        os.close(descriptor)


def open_lock_file(path: Path, flags: int) -> int:
    """A regular file, never the one that a link leads to. Raises FileNotFoundError, and KitError for anything else."""
    also = ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY")  # Windows lacks most of them
    try:
        descriptor = os.open(path, flags | sum(getattr(os, name, 0) for name in also), 0o666)
    except FileNotFoundError:
        raise
    except OSError as error:
        why = "it is a link" if path.is_symlink() else error.strerror
        raise KitError(f"{path} cannot be locked: {why}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise KitError(f"{path} cannot be locked: it is not a file")
    return descriptor


def take(descriptor: int, wait: bool) -> None:
    """Raises OSError, with one of HELD where another has it."""
    if sys.platform == "win32":
        retry_briefly(lambda: msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1), float("inf") if wait else MOMENT_SECONDS)
        return
    if sys.platform == "linux":
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, whole_file(fcntl.F_WRLCK))
            return
        except OSError as error:
            if error.errno not in NO_OFD:
                raise
    if wait:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    else:
        retry_briefly(lambda: fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB))


def is_taken(descriptor: int) -> bool:
    """Whether another has it. Raises OSError where that cannot be known."""
    if sys.platform == "linux":
        try:
            answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, whole_file(fcntl.F_WRLCK))
            return bool(struct.unpack(FLOCK, answer)[0] != fcntl.F_UNLCK)
        except OSError as error:
            if error.errno not in NO_OFD:
                raise
    try:
        if sys.platform == "win32":
            retry_briefly(lambda: msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1))
        else:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # dropped when the descriptor is closed
    except OSError as error:
        if error.errno in HELD:
            return True
        raise
    return False


def whole_file(kind: int) -> bytes:
    """A lock of that kind on a whole file, as Linux takes it."""
    return struct.pack(FLOCK, kind, os.SEEK_SET, 0, 0, 0)


def retry_briefly(attempt: Callable[[], None], seconds: float = MOMENT_SECONDS) -> None:
    """Tries what is refused while another looks, until it works or so many seconds have passed."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return attempt()
        except OSError as error:
            if error.errno not in HELD or time.monotonic() > deadline:
                raise
        time.sleep(PAUSE_SECONDS)
