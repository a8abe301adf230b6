"""Several runs at a time on one machine: each in a process of its own, with GPUs or cores of its own.

Two trainings that each take all cores slow each other more than tenfold, since every operation waits for its slowest
thread.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.launch.processes import PARENT

TELL_BYTES = 20_000  # of a process's last words
TOLD = re.compile(r"(rank \d+: )?(error|run failed): |(rank \d+: )?\d+ errors:$")  # how the command begins them


@dataclass(frozen=True)
class Slot:
    """A share of the machine. With `cores` empty it is the whole of it."""

    number: int
    environment: tuple[tuple[str, str], ...] = ()
    cores: tuple[int, ...] = ()

    @property
    def threads(self) -> int | None:
        """For a run that is to be the same wherever it is repeated; None where it is as without slots."""
        return int(dict(self.environment)["OMP_NUM_THREADS"]) if self.cores else None


def share(workers: int, device: str, nproc: int = 1) -> list[Slot]:
    """`workers` slots with as much each, for runs of `nproc` processes. Raises KitError where there is too little."""
    if device == "cuda":
        return share_gpus(workers, nproc)
    if workers == 1:
        return [Slot(0)]
    if device != "cpu":
        raise KitError(f"sweep.workers = {workers}: there is one {device} device, so one trial at a time")
    cores = my_cores()
    each = len(cores) // workers
    if each < nproc:
        raise KitError(f"sweep.workers = {workers}: there are {len(cores)} cores, and a trial wants {nproc} at least")
    said = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # one number for each level of nesting
    threads = min(each // nproc, int(said) if said.isdecimal() and int(said) else each)
    return [
        Slot(number, (("OMP_NUM_THREADS", str(threads)),), tuple(cores[number * each : (number + 1) * each]))
        for number in range(workers)
    ]


def share_gpus(workers: int, nproc: int) -> list[Slot]:
    import torch

    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = (
        [gpu.strip() for gpu in told.split(",")]
        if told
        else [str(number) for number in range(torch.cuda.device_count())]
    )
    each = len(gpus) // workers
    if each < nproc:
        raise KitError(f"sweep.workers = {workers}: there are {len(gpus)} GPUs, and a trial wants {nproc} at least")
    groups = [gpus[number * each : (number + 1) * each] for number in range(workers)]
    return [Slot(number, (("CUDA_VISIBLE_DEVICES", ",".join(group)),)) for number, group in enumerate(groups)]


def my_cores() -> list[int]:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


class Child:
    """`python -m nanogpt_kit ARGUMENTS` in a slot. It ends when this process does, however that ends."""

    def __init__(self, arguments: Sequence[str], slot: Slot, log: Path) -> None:
        self.log = log
        self.began = log.stat().st_size if log.exists() else 0
        environment = {**os.environ, **dict(slot.environment), PARENT: str(os.getpid())}
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "nanogpt_kit", *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C reaches it from here, once
            )
        if slot.cores and hasattr(os, "sched_setaffinity"):
            with suppress(OSError):  # it has ended already
                os.sched_setaffinity(self.process.pid, slot.cores)  # before it has threads, which inherit it

    def poll(self) -> int | None:
        return self.process.poll()

    def terminate(self) -> None:
        """Asks it to save and end."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """It, and what it has started."""
        with suppress(ProcessLookupError):
            if hasattr(os, "killpg"):
                os.killpg(self.process.pid, signal.SIGKILL)  # it leads its session
            else:
                self.process.kill()
        self.process.wait()

    def last_words(self) -> str:
        """The error that it told, or else its last line."""
        with self.log.open("rb") as file:
            file.seek(max(self.began, self.log.stat().st_size - TELL_BYTES))
            lines = file.read().decode("utf-8", "replace").strip().splitlines()
        for number, line in enumerate(lines):
            if found := TOLD.match(line):
                first = line[found.end() :] or line
                return "; ".join([first, *lines[number + 1 :]])
        return lines[-1] if lines else ""
