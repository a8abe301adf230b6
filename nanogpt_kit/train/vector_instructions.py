"""Whether torch's compiler can use all vector instructions that a CPU has: tried once on a machine, not in each run.

Its inductor loads a small library in a new Python process for each set of instructions, six processes on a CPU with
AVX-512 and AMX: 1.0 of the 3.1 s that compiling took with a warm cache (4 blocks, two cores of an AMD EPYC, Zen 4).
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from nanogpt_kit.core.options import digest
from nanogpt_kit.nn.measured_choices import current_conditions
from nanogpt_kit.runs.record import Record, Unreadable
from nanogpt_kit.train.compile_record import records_folder


class VectorRecord(Record):
    """The result of the trial on this machine, with one C++ compiler."""

    all_work: bool


def all_instructions_work() -> bool:
    """False also where it could not be found out: then each process tries."""
    path = record_path()
    if path is not None:
        with suppress(FileNotFoundError, Unreadable):
            return VectorRecord.read(path).all_work
    found = try_instructions()
    if path is not None:
        with suppress(OSError):  # a read-only folder: the next run tries again
            path.parent.mkdir(parents=True, exist_ok=True)
            VectorRecord(all_work=found).write(path)
    return found


def record_path() -> Path | None:
    """None without a folder for it, or where no compiler is found by its name."""
    with suppress(RuntimeError, OSError):
        compiler = shutil.which(os.environ.get("CXX") or "g++")
        if compiler is not None:
            status = os.stat(compiler)
            tried = [current_conditions().identity, os.path.realpath(compiler), status.st_size, status.st_mtime_ns]
            return records_folder() / f"vectors-{digest(tried)[:16]}.json"
    return None


def try_instructions() -> bool:
    """Whether a trial allows the same instructions as the CPU announces. Takes seconds, also of the compiler."""
    try:
        from torch._inductor import config
        from torch._inductor.cpu_vec_isa import valid_vec_isa_list

        working = valid_vec_isa_list()
        with config.patch({"cpp.vec_isa_ok": True}):
            return working == valid_vec_isa_list.__wrapped__()
    except Exception:  # names of torch that another version lacks
        return False
