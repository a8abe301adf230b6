"""Several runs at a time on one machine: each in a process of its own, with GPUs or cores of its own.

Two trainings that each take all cores slow each other, since every operation waits for its slowest thread. So what a
program's slots use is locked against this user's other programs on the machine.
"""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from nanogpt_kit.core.errors import FAILURE, Busy, Fault, KitError
from nanogpt_kit.core.system import available_cores, state_dir
from nanogpt_kit.launch.processes import PARENT, command_line, import_path
from nanogpt_kit.runs.lock import Lock
from nanogpt_kit.runs.record import Unreadable
from nanogpt_kit.runs.status import Failure

LAST_BYTES = 20_000  # of a process's log, in which its last line is looked for


@dataclass(frozen=True)
class Slot:
    """A share of the machine. With `cores` empty it is the whole of it."""

    number: int
    environment: tuple[tuple[str, str], ...] = ()
    cores: tuple[int, ...] = ()

    def whole(self) -> Slot:
        """For a run that began with the whole machine's cores, and so goes on with them."""
        return Slot(self.number) if self.cores else self

    @property
    def threads(self) -> int | None:
        """For a run that is to be the same wherever it is repeated; None where it is as without slots."""
        return int(dict(self.environment)["OMP_NUM_THREADS"]) if self.cores else None

    @property
    def uses(self) -> tuple[str, ...]:
        """What nobody else may use with it, by the machine's own names: gpu-3, or cpu-0 and cpu-1."""
        gpus = dict(self.environment).get("CUDA_VISIBLE_DEVICES")
        return tuple(f"gpu-{gpu}" for gpu in gpus.split(",")) if gpus else tuple(f"cpu-{core}" for core in self.cores)


@contextmanager
def hold_slots(workers: int, device: str, nproc: int = 1) -> Iterator[list[Slot]]:
    """The first `workers` of the slots that `share` gives that no other program holds, held until the end.

    Raises Busy where they are fewer. The system drops the locks of a program that is killed.
    """
    found = allocate_slots(workers, device, nproc)
    with ExitStack() as locks:
        with ExitStack() as turn:
            folder = slots_folder() if any(slot.uses for slot in found) else None
            if folder is not None:
                is_free(folder / "choosing", turn, wait=True)  # two that choose at once would both find too little
            taken, others = take_free(found, workers, folder, locks)
        if len(taken) < workers:
            raise Busy(Fault(too_few(found, taken, others, workers), "sweep.workers"))
        yield [replace(slot, number=number) for number, slot in enumerate(taken)]


def take_free(found: Sequence[Slot], count: int, folder: Path | None, locks: ExitStack) -> tuple[list[Slot], list[str]]:
    """Those that could be locked, `count` at most, and what others hold."""
    taken: list[Slot] = []
    others: list[str] = []
    for slot in found:
        with ExitStack() as own:
            mine = [name for name in slot.uses if folder is None or is_free(folder / lock_name(name), own)]
            others += [name for name in slot.uses if name not in mine]
            if len(mine) == len(slot.uses):
                taken.append(slot)
                locks.push(own.pop_all())
        if len(taken) == count:
            break
    return taken, others


def too_few(found: Sequence[Slot], taken: Sequence[Slot], others: Sequence[str], workers: int) -> str:
    free = [name for slot in found for name in slot.uses if name not in others]
    if others[0].startswith("gpu-"):
        left = f"of {workers} trials at a time there is room for {len(taken)}" if taken else "none is left"
        remedy = "wait for it, or take fewer" if taken else "wait for it"
        return f"another sweep on this machine holds GPU {numbers(others)}; {left}: {remedy}"
    left = f"{len(free)} are left ({numbers(free)})" if free else "none is left"
    remedy = "wait for it"
    if free and hasattr(os, "sched_setaffinity"):
        remedy += f", or keep to what is left: taskset -c {numbers(free)} nanogpt-kit sweep ..."
    return f"another sweep on this machine holds core {numbers(others)}; {left}: {remedy}"


def numbers(names: Sequence[str]) -> str:
    """Of cpu-0, cpu-1, cpu-2 and cpu-5: 0-2,5."""
    told: list[str] = []
    for name in names:
        number = name.partition("-")[2]
        first, _, last = told[-1].partition("-") if told else ("", "", "")
        if number.isdecimal() and (last or first).isdecimal() and int(number) == int(last or first) + 1:
            told[-1] = f"{first}-{number}"
        else:
            told.append(number)
    return ",".join(told)


def slots_folder() -> Path | None:
    """Where this user's locks on this machine lie; its home may be that of other machines, too. None: there is no room
    for any, and so whatever there is counts as free."""
    try:
        folder = state_dir() / "slots" / lock_name(platform.node() or "localhost").removesuffix(".lock")
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        return None
    return folder


def lock_name(name: str) -> str:
    """MIG-GPU-5c89a0f4/1/0 is the name of a GPU, and of no file."""
    return re.sub(r"[^\w.-]", "-", name) + ".lock"


def is_free(path: Path, locks: ExitStack, wait: bool = False) -> bool:
    """Whether nobody else holds it, and then it is held until the end of `locks`; free where nothing can be locked."""
    try:
        locks.enter_context(Lock(path, wait))
    except BlockingIOError:
        return False
    except (OSError, KitError):
        pass
    return True


def allocate_slots(workers: int, device: str, nproc: int = 1) -> list[Slot]:
    """Slots with as much each, for runs of `nproc` processes: `workers` at least, of GPUs as many as there are.

    Raises KitError where there is too little.
    """
    if device == "cuda":
        return share_gpus(workers, nproc)
    if workers == 1:
        return [Slot(0)]
    if device != "cpu":
        raise too_many(workers, f"there is one {device} device, so one trial at a time")
    cores = available_cores()
    each = len(cores) // workers
    if each < nproc:
        raise too_many(workers, f"there are {len(cores)} cores, and a trial wants {nproc} at least")
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
    groups = [gpus[at : at + nproc] for at in range(0, len(gpus) - nproc + 1, nproc)]
    if len(groups) < workers:
        raise too_many(workers, f"there are {len(gpus)} GPUs, and a trial wants {nproc} at least")
    return [Slot(number, (("CUDA_VISIBLE_DEVICES", ",".join(group)),)) for number, group in enumerate(groups)]


def too_many(workers: int, reason: str) -> KitError:
    return KitError(Fault(f"{workers} at a time are too many: {reason}", "sweep.workers"))


class Child:
    """`python -m nanogpt_kit ARGUMENTS` in a slot. It ends when this process does, however that ends."""

    def __init__(self, arguments: Sequence[str], slot: Slot, log: Path) -> None:
        self.log = log
        self.began = log.stat().st_size if log.exists() else 0
        self.record = log.with_suffix(".failure.json")
        self.record.unlink(missing_ok=True)  # of the process before
        own = {"PYTHONPATH": import_path(), FAILURE: str(self.record), PARENT: str(os.getpid())}
        environment = {**os.environ, **own, **dict(slot.environment)}
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command_line(arguments),
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

    def failure(self) -> Failure | None:
        """What it left when it failed; None where it did not fail, or could not say so."""
        try:
            return Failure.read(self.record)
        except (FileNotFoundError, Unreadable):
            return None

    def last_line(self) -> str:
        """Of its log, for people."""
        with self.log.open("rb") as file:
            file.seek(max(self.began, self.log.stat().st_size - LAST_BYTES))
            lines = file.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else ""
