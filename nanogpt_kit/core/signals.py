"""The signals that ask a command to save and end.

SIGHUP comes when a terminal is closed or an SSH connection drops, SIGUSR1 from Slurm before a job's time limit
(`sbatch --signal=USR1@60`).
"""

from __future__ import annotations

import signal

STOP = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
ONCE_MORE = ("SIGINT", "SIGTERM")  # the second of these ends at once; a closed terminal sends SIGHUP twice
TO_A_GROUP = ("SIGINT", "SIGHUP", "SIGUSR1")  # these reach a command's children, too


def numbers(names: tuple[str, ...] = STOP) -> list[signal.Signals]:
    """Those that this system has; without SIGHUP where it is ignored, as under `nohup`."""
    known: list[signal.Signals] = [getattr(signal, name) for name in names if hasattr(signal, name)]
    return [number for number in known if number.name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN]


def ignore_those_to_a_group() -> None:
    """For a child that its parent ends."""
    for number in numbers(TO_A_GROUP):
        signal.signal(number, signal.SIG_IGN)
