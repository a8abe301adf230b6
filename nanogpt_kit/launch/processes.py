"""One run in several processes of this machine, as `--nproc` starts them; over many machines torchrun does."""

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

from nanogpt_kit.core import signals
from nanogpt_kit.core.errors import FAILED, INTERRUPTED

GRACE_SECONDS = 10.0  # for the others once one has failed, to end by themselves
LOOK_SECONDS = 0.05
PARENT_SECONDS = 0.25  # between looks whether the parent is there
PARENT = "NANOGPT_KIT_PARENT"  # the process that a rank ends with


def start(count: int, arguments: Sequence[str]) -> int:
    """Runs `python -m nanogpt_kit ARGUMENTS` `count` times, as ranks of one run. Returns the first exit code not 0."""
    command = command_line(arguments)
    port = free_port()
    # Sessions of their own: a Ctrl-C reaches them once, from here, and not from the terminal as well
    ranks = [
        subprocess.Popen(command, env=environment(rank, count, port), start_new_session=True) for rank in range(count)
    ]
    sent: list[str] = []

    def forward(number: int, frame: FrameType | None) -> None:
        sent.append(signal.Signals(number).name)
        insisting = sum(name in signals.END_AT_ONCE for name in sent)
        for rank in ranks:
            with suppress(ProcessLookupError):
                rank.send_signal(number) if insisting < 3 else rank.kill()

    before = {number: signal.signal(number, forward) for number in signals.available()}
    try:
        code = watch(ranks, sent)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for rank in ranks:
            rank.kill()
            rank.wait()
    return code


def watch(ranks: Sequence[subprocess.Popen[bytes]], sent: Sequence[str] = ()) -> int:
    """Waits until all have ended; those that outlive a failed one for long are ended.

    After one of the signals that were `sent` to all, each ends by itself, when its checkpoint is written.
    """
    code, deadline = 0, float("inf")
    while any(rank.poll() is None for rank in ranks):
        # A rank that was still starting has no handlers yet: the signal itself ends it
        in_order = {INTERRUPTED, *(-getattr(signal, name) for name in sent)} if sent else set()
        failed = next((rank.returncode for rank in ranks if rank.poll() and rank.returncode not in in_order), 0)
        if failed and not code:
            code, deadline = failed, time.monotonic() + GRACE_SECONDS
            for rank in ranks:
                rank.terminate()
        if time.monotonic() > deadline:
            for rank in ranks:
                rank.kill()
        time.sleep(LOOK_SECONDS)
    if not code and any(rank.returncode for rank in ranks):
        return INTERRUPTED
    return code if code >= 0 else FAILED  # killed, perhaps for lack of memory


def environment(rank: int, count: int, port: int) -> dict[str, str]:
    """What torchrun would say, too; and its share of the cores."""
    share = str(max(1, (os.cpu_count() or 1) // count))
    said = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    return {
        "OMP_NUM_THREADS": share,
        **os.environ,
        **{name: str(value) for name, value in said.items()},
        "PYTHONPATH": import_path(),
        "MASTER_ADDR": "127.0.0.1",
        PARENT: str(os.getpid()),
    }


def command_line(arguments: Sequence[str]) -> list[str]:
    """-P: nothing is imported from the current folder, which somebody else may have filled."""
    return [sys.executable, "-P", "-m", "nanogpt_kit", *arguments]


def import_path() -> str:
    """What is importable here, for a process that imports the same."""
    return os.pathsep.join(folder or os.getcwd() for folder in sys.path)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def end_with_parent(parent: int | None = None) -> None:
    """In a rank: looks whether who started it is still there, and ends where it was killed."""
    known = os.environ.pop(PARENT, None) if parent is None else parent  # what it starts itself has another parent
    if known is None or not hasattr(os, "getppid"):
        return

    def look() -> None:
        while os.getppid() == int(known):
            time.sleep(PARENT_SECONDS)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()
