"""The signals that ask a command to save its work and end.

SIGHUP comes when a terminal is closed or an SSH connection drops, SIGUSR1 from Slurm before a job's time limit
(`sbatch --signal=USR1@60`).
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

STOP = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
END_AT_ONCE = ("SIGINT", "SIGTERM")  # if sent twice; a closed terminal sends SIGHUP twice by itself
SENT_TO_GROUP = ("SIGINT", "SIGHUP", "SIGUSR1")  # also reach the children of a command


def available_signals(names: tuple[str, ...] = STOP) -> list[signal.Signals]:
    """The signals that this system has; without SIGHUP where it is ignored, as under `nohup`."""
    known: list[signal.Signals] = [getattr(signal, name) for name in names if hasattr(signal, name)]
    return [number for number in known if number.name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN]


def ignore_group_signals() -> None:
    """Makes this process ignore the signals that a terminal sends to its parent too, since the parent ends it."""
    numbers = available_signals(SENT_TO_GROUP)
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):  # as a process has them that was started by `held_group_signals`
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


@contextmanager
def held_group_signals() -> Iterator[None]:
    """While entered, such a signal waits, in this process until the end and in a process that it starts until that one
    ignores it: one that is still importing would end with a traceback. Windows cannot hold signals."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, available_signals(SENT_TO_GROUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
