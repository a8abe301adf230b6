"""A file lock that the system releases when its holder dies, and a test that does not acquire it.

On Linux it is an open file description lock: like a lock of flock it belongs to an open file, so two threads of a
process exclude each other, and closing another file of the same name releases nothing; unlike flock it can be tested
without being acquired (F_OFD_GETLK of fcntl(2)). Over NFS both are locks of the server.

Where the system or the file system lacks them, it is a lock of flock or, on Windows, of msvcrt. A test then acquires it
briefly (with flock as a shared lock), so `Lock` retries for a moment before it reports the lock as held.
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

IS_HELD = (errno.EAGAIN, errno.EACCES)
NO_OFD = (errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # the system or the file system lacks these locks
FLOCK = "hhqqi4x"  # struct flock of Linux: type, whence, start, length (0: to the end), process
RETRY_SECONDS = 1.0  # tests by other processes end sooner
PAUSE_SECONDS = 0.001  # between two tries

lock_files: WeakSet[IO[bytes]] = WeakSet()  # open in this process


class Lock:
    """`with Lock(path):` raises BlockingIOError where another holder has it, and KitError where locking fails.

    With `wait` it waits for the other holder instead, and deletes the lock file on release.
    """

    def __init__(self, path: Path, wait: bool = False) -> None:
        self.path = path
        self.wait = wait

    def __enter__(self) -> Lock:
        while True:
            self.file = os.fdopen(open_lock_file(self.path, os.O_RDWR | os.O_CREAT), "r+b", buffering=0)
            lock_files.add(self.file)
            try:
                acquire_lock(self.file.fileno(), self.wait)
            except OSError as error:
                self.file.close()
                if error.errno in IS_HELD:
                    raise BlockingIOError(error.errno, f"{self.path} is locked by another process") from error
                raise KitError(f"{self.path} cannot be locked: {error.strerror}") from error
            except BaseException:  # a signal, while it waits
                self.file.close()
                raise
            if not self.wait or self._is_current():
                return self
            self.file.close()  # its last holder deleted it while we waited: lock the new file

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.wait and not self.file.closed:  # it is closed in a forked process, which has no lock
            with suppress(PermissionError):  # Windows does not delete an open file
                self.path.unlink(missing_ok=True)
        self.file.close()

    def _is_current(self) -> bool:
        try:
            return self.path.stat().st_ino == os.fstat(self.file.fileno()).st_ino
        except FileNotFoundError:
            return False


def close_in_child() -> None:
    """A forked process shares the open file and thus the lock: it would hold the lock after its parent is killed."""
    for file in list(lock_files):
        file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=close_in_child)


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock. Needs no write permission; acquires it only on systems that cannot test it.

    Raises KitError where that cannot be determined.
    """
    try:
        descriptor = open_lock_file(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return is_lock_held(descriptor)
    except OSError as error:
        raise KitError(f"{path}: cannot test whether it is locked: {error.strerror}") from error
    finally:
        os.close(descriptor)


def open_lock_file(path: Path, flags: int) -> int:
    """Opens a regular file; links are not followed. Raises FileNotFoundError, and KitError for anything else."""
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


def acquire_lock(descriptor: int, wait: bool) -> None:
    """Locks an open file. Raises OSError, with an errno of IS_HELD where another holder has the lock."""
    if sys.platform == "win32":
        retry_briefly(lambda: msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1), float("inf") if wait else RETRY_SECONDS)
        return
    if sys.platform == "linux":
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, whole_file_flock(fcntl.F_WRLCK))
            return
        except OSError as error:
            if error.errno not in NO_OFD:
                raise
    if wait:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    else:
        retry_briefly(lambda: fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB))


def is_lock_held(descriptor: int) -> bool:
    """Whether another holder has locked an open file. Raises OSError where that cannot be determined."""
    if sys.platform == "linux":
        try:
            answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, whole_file_flock(fcntl.F_WRLCK))
            return bool(struct.unpack(FLOCK, answer)[0] != fcntl.F_UNLCK)
        except OSError as error:
            if error.errno not in NO_OFD:
                raise
    try:
        if sys.platform == "win32":
            retry_briefly(lambda: msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1))
        else:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # released when the descriptor is closed
    except OSError as error:
        if error.errno in IS_HELD:
            return True
        raise
    return False


def whole_file_flock(kind: int) -> bytes:
    """The struct flock of a lock on a whole file. `kind`: F_RDLCK, F_WRLCK or F_UNLCK."""
    return struct.pack(FLOCK, kind, os.SEEK_SET, 0, 0, 0)


def retry_briefly(attempt: Callable[[], None], seconds: float = RETRY_SECONDS) -> None:
    """Retries an attempt that fails while another process tests the lock, for at most `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return attempt()
        except OSError as error:
            if error.errno not in IS_HELD or time.monotonic() > deadline:
                raise
        time.sleep(PAUSE_SECONDS)
