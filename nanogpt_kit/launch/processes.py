"""Starts the processes of a run on this machine (`--nproc`). For several machines there is torchrun."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

from nanogpt_kit.core.errors import FAILED, INTERRUPTED
from nanogpt_kit.system import signals

GRACE_SECONDS = 10.0  # for the other ranks to end by themselves, after one has failed
POLL_SECONDS = 0.05
PARENT_POLL_SECONDS = 0.25
PARENT = "NANOGPT_KIT_PARENT"  # id of the process that a rank ends with
LAUNCHED = "NANOGPT_KIT_LAUNCHED"  # set in ranks: their parent has printed the messages that concern all of them


def run_ranks(count: int, arguments: Sequence[str], stdout: int | None = None) -> int:
    """Runs `python -m nanogpt_kit ARGUMENTS` as `count` ranks of one run. Returns the first exit code that is not 0.

    `stdout` is the descriptor that they print to; None: that of this process.
    """
    command = kit_command(arguments)
    port = free_port()
    # In separate sessions: a Ctrl-C reaches them once, from here, and not from the terminal as well
    ranks = [
        subprocess.Popen(command, env=rank_environment(rank, count, port), stdout=stdout, start_new_session=True)
        for rank in range(count)
    ]
    sent: list[str] = []

    def forward(signal_number: int, frame: FrameType | None) -> None:
        sent.append(signal.Signals(signal_number).name)
        repeats = sum(name in signals.END_AT_ONCE for name in sent)
        for rank in ranks:
            with suppress(ProcessLookupError):
                rank.send_signal(signal_number) if repeats < 3 else rank.kill()

    before = {number: signal.signal(number, forward) for number in signals.available_signals()}
    try:
        code = wait_for_ranks(ranks, sent)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for rank in ranks:
            rank.kill()
            rank.wait()
    return code


def wait_for_ranks(ranks: Sequence[subprocess.Popen[bytes]], sent: Sequence[str] = ()) -> int:
    """Waits until all have ended. Once one has failed, the others are terminated, and killed after GRACE_SECONDS.

    After a signal in `sent`, which all received, each ends by itself when its checkpoint is written.
    """
    code, deadline = 0, float("inf")
    while any(rank.poll() is None for rank in ranks):
        # A rank that was still starting has no handlers yet: the signal kills it
        regular = {INTERRUPTED, *(-getattr(signal, name) for name in sent)} if sent else set()
        failed = next((rank.returncode for rank in ranks if rank.poll() and rank.returncode not in regular), 0)
        if failed and not code:
            code, deadline = failed, time.monotonic() + GRACE_SECONDS
            for rank in ranks:
                rank.terminate()
        if time.monotonic() > deadline:
            for rank in ranks:
                rank.kill()
        time.sleep(POLL_SECONDS)
    if not code and any(rank.returncode for rank in ranks):
        return INTERRUPTED
    return code if code >= 0 else FAILED  # killed, perhaps for lack of memory


def rank_environment(rank: int, count: int, port: int) -> dict[str, str]:
    """The variables that torchrun sets, and the number of threads."""
    threads = str(max(1, (os.cpu_count() or 1) // count))
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    return {
        "OMP_NUM_THREADS": threads,
        **os.environ,
        **{name: str(value) for name, value in variables.items()},
        "PYTHONPATH": import_path(),
        "MASTER_ADDR": "127.0.0.1",
        PARENT: str(os.getpid()),
        LAUNCHED: "1",
    }


def kit_command(arguments: Sequence[str]) -> list[str]:
    """`python -m nanogpt_kit ARGUMENTS`, without imports (-P) from the current folder: its files may be foreign."""
    return [sys.executable, "-P", "-m", "nanogpt_kit", *arguments]


def import_path() -> str:
    """PYTHONPATH of a process that imports the same modules as this one."""
    return os.pathsep.join(folder or os.getcwd() for folder in sys.path)


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def end_with_parent(parent: int | None = None) -> None:
    """Ends this process when its parent (default: the one that PARENT names) has ended, even by a kill."""
    expected = os.environ.pop(PARENT, None) if parent is None else parent  # its own children have another parent
    if expected is None or not hasattr(os, "getppid"):
        return

    def poll_parent() -> None:
        while os.getppid() == int(expected):
            time.sleep(PARENT_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=poll_parent, daemon=True).start()
