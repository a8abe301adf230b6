"""What compiling took and gained on this machine, by graph, kept beside the code that was compiled.

The folder is the cache of torch's compiler: where a record has the seconds of compiling, the graph is in the cache, and
removing the folder removes both. It may be removed at any time. Its default is in the user's cache folder, since
torch's own is in /tmp, which is lost when the machine restarts; TORCHINDUCTOR_CACHE_DIR names another.

Each model of CPU and instruction set has a separate folder, since torch finds a graph whatever CPU it was compiled for:
code for AVX-512 that is loaded where AVX2 is chosen reads other elements than it should, or ends the process.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch
from pydantic import Field

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.graph_identity import compile_task, graph_code, graph_identity
from nanogpt_kit.core.options import digest
from nanogpt_kit.nn.measured_choices import cpu_name, current_conditions
from nanogpt_kit.runs.lock import Lock, is_locked
from nanogpt_kit.runs.record import Record, Unreadable
from nanogpt_kit.system.folders import cache_dir
from nanogpt_kit.train.compile_decision import Seconds

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
NAME_LENGTH = 24  # of a record's name: a part of a hash


class CompileRecord(Record):
    """What one graph takes on this machine, in seconds; see `compile_decision.Seconds`."""

    graph: str  # for people
    cold_seconds: float | None = Field(None, gt=0)
    warm_seconds: float | None = Field(None, gt=0)
    eager_seconds: float | None = Field(None, gt=0)
    compiled_seconds: float | None = Field(None, gt=0)
    uncompiled_passes: float = Field(0, ge=0)

    @property
    def seconds(self) -> Seconds:
        return Seconds(
            self.cold_seconds, self.warm_seconds, self.eager_seconds, self.compiled_seconds, self.uncompiled_passes
        )


def compiled_folder() -> Path:
    """The cache of torch's compiler for this CPU. Raises RuntimeError without a home."""
    named = os.environ.get(CACHE_VARIABLE)
    folder = Path(named) if named else cache_dir() / "compiled"
    of_cpu = f"{torch.backends.cpu.get_cpu_capability().lower()}-{digest([cpu_name()])[:8]}"
    return folder if folder.name == of_cpu else folder / of_cpu  # a parent may have named it so


def use_compiled_folder() -> None:
    """Makes torch's compiler use the folder, unless it cannot be written: then torch's own."""
    with suppress(OSError, RuntimeError):
        folder = compiled_folder()
        folder.mkdir(parents=True, exist_ok=True)
        if is_writable(folder):
            os.environ[CACHE_VARIABLE] = str(folder)


def is_writable(folder: Path) -> bool:
    """Whether files can be written into a folder, or it can be made."""
    existing = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def machine_identity(device: str) -> list[str]:
    """All of a machine that decides what compiling a graph gives and takes here."""
    gpu = torch.cuda.get_device_name() if device == "cuda" else ""
    return [current_conditions().identity, platform.python_version(), device, gpu]


class CompileMemory:
    """The record of one graph. Nothing here raises: without a folder, or with a damaged record, nothing is known."""

    def __init__(self, experiment: Experiment, device: str, shape: Sequence[object]) -> None:
        """`shape` is all that decides the graph besides the experiment, the code of its parts, and the machine."""
        self.description = experiment.name
        self.task = compile_task(experiment)
        name = digest([graph_identity(experiment), graph_code(experiment), *shape, *machine_identity(device)])[
            :NAME_LENGTH
        ]
        self.path: Path | None = None
        with suppress(OSError, RuntimeError):
            if is_writable(records_folder()):  # else torch compiles elsewhere, and nothing is known of that
                self.path = records_folder() / f"{name}.json"

    def read(self) -> Seconds:
        """What is known."""
        if self.path is not None:
            with suppress(FileNotFoundError, Unreadable):
                return CompileRecord.read(self.path).seconds
        return Seconds()

    def write(self, seconds: Seconds) -> None:
        """Replaces what is known."""
        if self.path is None:
            return
        with suppress(OSError, ValueError):  # a full or read-only disk: the next run measures again
            self.path.parent.mkdir(parents=True, exist_ok=True)
            CompileRecord(
                graph=self.description,
                cold_seconds=seconds.cold,
                warm_seconds=seconds.warm,
                eager_seconds=seconds.eager,
                compiled_seconds=seconds.compiled,
                uncompiled_passes=seconds.passes,
            ).write(self.path)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """While entered, no other process of this machine compiles this graph; waits for one that does.

        Runs that start at once would each take the cores from the others to compile the same code. Waiting rather than
        starting uncompiled lets all of them compute alike. The system releases the lock of a process that dies.
        """
        with ExitStack() as stack:
            if self.path is not None:
                with suppress(OSError, KitError):  # where nothing can be locked, each compiles for itself
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    stack.enter_context(Lock(self.path.with_suffix(".lock"), wait=True))
            yield

    def is_locked(self) -> bool:
        """Whether another process compiles this graph now."""
        with suppress(OSError, KitError):
            return self.path is not None and is_locked(self.path.with_suffix(".lock"))
        return False


def records_folder() -> Path:
    return compiled_folder() / "nanogpt-kit"


def known_graphs() -> list[CompileRecord]:
    """The records of graphs that were compiled, as far as they can be read, newest first."""
    records: list[CompileRecord] = []
    with suppress(OSError, RuntimeError):
        paths = sorted(
            records_folder().glob(f"{'[0-9a-f]' * NAME_LENGTH}.json"),
            key=lambda path: path.stat().st_mtime,
            reverse=True,
        )
        for path in paths:
            with suppress(OSError, Unreadable):
                records.append(CompileRecord.read(path))
    return [record for record in records if record.seconds.is_warm]
