"""Machine slots: disjoint GPUs or cores of one machine, so that several trials can run on it at once.

Two trainings that both use all cores slow each other down, since every operation waits for its slowest thread. So the
GPUs and cores of a program's slots are locked against the same user's other programs on the machine.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from nanogpt_kit.core.errors import Busy, Fault, KitError
from nanogpt_kit.runs.lock import Lock
from nanogpt_kit.system.folders import available_cores, state_dir


@dataclass(frozen=True)
class MachineSlot:
    """GPUs or cores for one trial. With neither it is the whole machine."""

    index: int
    gpus: tuple[str, ...] = ()  # as CUDA_VISIBLE_DEVICES names them
    cores: tuple[int, ...] = ()
    threads: int | None = None  # of each process; None: as many as a run without slots would choose

    def without_cores(self) -> MachineSlot:
        """The slot for a run that started with all cores: with fewer threads its sums would round differently."""
        return replace(self, cores=(), threads=None)

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that restrict a process to this slot."""
        variables = {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)} if self.gpus else {}
        return variables if self.threads is None else {**variables, "OMP_NUM_THREADS": str(self.threads)}

    @property
    def resources(self) -> tuple[str, ...]:
        """What is locked for this slot, by the machine's own names: gpu-3, or cpu-0 and cpu-1."""
        return tuple(f"gpu-{gpu}" for gpu in self.gpus) or tuple(f"cpu-{core}" for core in self.cores)


# Locking


@contextmanager
def hold_slots(workers: int, device: str, nproc: int = 1) -> Iterator[list[MachineSlot]]:
    """The first `workers` of the slots of this machine that no other program holds; they are locked meanwhile.

    Raises Busy if there are fewer. The system drops the locks of a program that is killed.
    """
    slots = allocate_slots(workers, device, nproc)
    with ExitStack() as locks:
        with ExitStack() as choosing:
            folder = locks_folder() if any(slot.resources for slot in slots) else None
            if folder is not None:
                try_lock(folder / "choosing", choosing, wait=True)  # two that choose at once might both find too few
            locked, busy = lock_free_slots(slots, workers, folder, locks)
        if len(locked) < workers:
            raise Busy(Fault(too_few_free_message(slots, locked, busy, workers), "sweep.workers"))
        yield [replace(slot, index=index) for index, slot in enumerate(locked)]


def lock_free_slots(
    slots: Sequence[MachineSlot], count: int, folder: Path | None, locks: ExitStack
) -> tuple[list[MachineSlot], list[str]]:
    """Up to `count` slots that could be locked until the end of `locks`, and the resources that others hold."""
    locked: list[MachineSlot] = []
    busy: list[str] = []
    for slot in slots:
        with ExitStack() as slot_locks:
            free = [name for name in slot.resources if folder is None or try_lock(folder / lock_name(name), slot_locks)]
            busy += [name for name in slot.resources if name not in free]
            if len(free) == len(slot.resources):
                locked.append(slot)
                locks.push(slot_locks.pop_all())
        if len(locked) == count:
            break
    return locked, busy


def too_few_free_message(
    slots: Sequence[MachineSlot], locked: Sequence[MachineSlot], busy: Sequence[str], workers: int
) -> str:
    free = [name for slot in slots for name in slot.resources if name not in busy]
    if busy[0].startswith("gpu-"):
        left = f"there is room for {len(locked)} of {workers} parallel trials" if locked else "none is free"
        remedy = "wait until it ends, or reduce workers" if locked else "wait until it ends"
        return f"another sweep or comparison on this machine uses GPU {format_ranges(busy)}; {left}; {remedy}"
    left = f"{len(free)} are free ({format_ranges(free)})" if free else "none is free"
    remedy = "wait until it ends"
    if free and hasattr(os, "sched_setaffinity"):
        remedy += f", or use the free ones: taskset -c {format_ranges(free)} nanogpt-kit ..."
    return f"another sweep or comparison on this machine uses core {format_ranges(busy)}; {left}; {remedy}"


def format_ranges(names: Sequence[str]) -> str:
    """The indices in names of resources: "0-2,5" for cpu-0, cpu-1, cpu-2 and cpu-5."""
    ranges: list[str] = []
    for name in names:
        unit = name.partition("-")[2]
        first, _, last = ranges[-1].partition("-") if ranges else ("", "", "")
        if unit.isdecimal() and (last or first).isdecimal() and int(unit) == int(last or first) + 1:
            ranges[-1] = f"{first}-{unit}"
        else:
            ranges.append(unit)
    return ",".join(ranges)


def locks_folder() -> Path | None:
    """The folder of this user's locks on this machine; other machines may share the home folder.

    None where it cannot be made: then all resources count as free.
    """
    try:
        machine = lock_name(platform.node() or "localhost").removesuffix(".lock")
        folder = state_dir() / "slots" / machine
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        return None
    return folder


def lock_name(name: str) -> str:
    """The file name for a resource; a GPU may be called MIG-GPU-5c89a0f4/1/0."""
    return re.sub(r"[^\w.-]", "-", name) + ".lock"


def try_lock(path: Path, locks: ExitStack, wait: bool = False) -> bool:
    """Locks `path` until the end of `locks`. False if another program holds it; True where nothing can be locked."""
    try:
        locks.enter_context(Lock(path, wait))
    except BlockingIOError:
        return False
    except (OSError, KitError):
        pass
    return True


# Dividing the machine


def allocate_slots(workers: int, device: str, nproc: int = 1) -> list[MachineSlot]:
    """Equal slots for runs of `nproc` processes: at least `workers` of them, and with GPUs as many as there are.

    Raises KitError if the machine is too small.
    """
    if device == "cuda":
        return allocate_gpu_slots(workers, nproc)
    if workers == 1:
        return [MachineSlot(0)]
    if device != "cpu":
        raise too_many_workers(workers, f"there is one {device} device, which takes one trial")
    cores = available_cores()
    each = len(cores) // workers
    if each < nproc:
        raise too_many_workers(workers, f"there are {len(cores)} cores, and a trial needs at least {nproc}")
    limit = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # one number for each level of nesting
    threads = min(each // nproc, int(limit) if limit.isdecimal() and int(limit) else each)
    return [
        MachineSlot(index, cores=tuple(cores[index * each : (index + 1) * each]), threads=threads)
        for index in range(workers)
    ]


def allocate_gpu_slots(workers: int, nproc: int) -> list[MachineSlot]:
    import torch

    visible, count = os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()
    gpus = [gpu.strip() for gpu in visible.split(",")] if visible else [str(index) for index in range(count)]
    if not any(gpu.startswith("MIG-") for gpu in gpus):  # of such instances CUDA shows a process one at a time
        del gpus[count:]  # CUDA ignores all names from the first on that is not known here
    groups = [tuple(gpus[start : start + nproc]) for start in range(0, len(gpus) - nproc + 1, nproc)]
    if len(groups) < workers:
        raise too_many_workers(workers, f"there are {len(gpus)} GPUs, and a trial needs at least {nproc}")
    return [MachineSlot(index, gpus=group) for index, group in enumerate(groups)]


def too_many_workers(workers: int, reason: str) -> KitError:
    return KitError(Fault(f"{workers} parallel trials are too many: {reason}", "sweep.workers"))
