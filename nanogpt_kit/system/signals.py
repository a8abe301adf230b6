"""The signals that ask a command to save its work and end.

SIGHUP comes when a terminal is closed or an SSH connection drops, SIGUSR1 from Slurm before a job's time limit
(`sbatch --signal=USR1@60`).
"""

from __future__ import annotations

import signal

STOP = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
END_AT_ONCE = ("SIGINT", "SIGTERM")  # if sent twice; a closed terminal sends SIGHUP twice by itself
SENT_TO_GROUP = ("SIGINT", "SIGHUP", "SIGUSR1")  # also reach the children of a command


def available_signals(names: tuple[str, ...] = STOP) -> list[signal.Signals]:
    """The signals that this system has; without SIGHUP where it is ignored, as under `nohup`."""
    known: list[signal.Signals] = [getattr(signal, name) for name in names if hasattr(signal, name)]
    return [number for number in known if number.name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN]


def ignore_group_signals() -> None:
    """Makes this process ignore the signals that a terminal sends to its parent too, since the parent ends it."""
    for number in available_signals(SENT_TO_GROUP):
        signal.signal(number, signal.SIG_IGN)
