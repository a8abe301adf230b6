"""How much memory a run needs, and what to do where there is too little."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from nanogpt_kit.checkpoint.rng import own_rng
from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.integers import ceil_div
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.nn.sharded import reshard
from nanogpt_kit.nn.uninitialized import check_model_size, located_at_model, machine_memory_bytes, tensor_bytes

if TYPE_CHECKING:
    from nanogpt_kit.train.trainer import Trainer

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
BATCH_BYTES = 16  # of a token: its id and its target
SHARE = 0.5  # of the free memory that activations may take: gradients and the optimizer's state come later


def memory_metrics(device: str) -> dict[str, float]:
    """{"memory/peak_bytes": ...}: on the accelerator, or of the process; empty where the system does not say."""
    peak = peak_bytes(device)
    return {} if peak is None else {"memory/peak_bytes": float(peak)}


def peak_bytes(device: str) -> int | None:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    if device == "mps":
        return torch.mps.driver_allocated_memory()
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss: bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def free_bytes(device: str) -> int | None:
    """Of the device, for all processes; None where the system does not say."""
    if device == "cuda":
        cached = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return torch.cuda.mem_get_info()[0] + cached
    if device == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):
        return None


def check_memory(experiment: Experiment, module: nn.Module | None, ctx: RunContext) -> None:
    """Raises KitError where the model or a batch is larger than all of this machine's memory, used or not.

    `module` is the model on the meta device; None where it cannot be counted.
    """
    most = machine_memory_bytes()
    if most is None:
        return
    if module is not None:
        try:  # weights and their gradients; GPUs together may have more memory than the machine that builds the model
            copies = 2 if experiment.total_steps and ctx.device == "cpu" and ctx.world_size == 1 else 1
            check_model_size(experiment.model, copies * tensor_bytes(module), most, "of this machine's memory")
        except KitError as error:
            raise KitError(*(located_at_model(one, experiment) for one in error.faults)) from None
    wanted = experiment.train.batch_tokens
    needed = wanted * BATCH_BYTES // ctx.world_size
    if experiment.total_steps and needed > most:
        reason = f"a batch of {wanted:,} tokens takes at least {needed:,} bytes, and this machine has {most:,}"
        place = experiment.location(("train", "batch_tokens"))
        raise KitError(Fault(f"{reason}; several updates with smaller batches need less", "train.batch_tokens", place))


def keep_freed_memory() -> None:
    """Lets this process, as long as it lives, keep the memory that its tensors free for the tensors of the next step.

    The C library gives large pieces back at once, and the system hands them out again zeroed, page by page: 200,000
    page faults a step of GPT-2 124M on a CPU, a fifth of its time (measured on two cores). Only glibc can be told.
    """
    if sys.platform != "linux":
        return
    try:
        tell = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    tell(M_MMAP_MAX, 0)  # no piece is mapped by itself, to be unmapped where it is freed
    tell(M_TRIM_THRESHOLD, -1)  # and nothing is given back


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory of the device or of the machine ran out.

    This is the one place that reads a message: CUDA has an error type, but the CPU's allocator and MPS raise plain
    RuntimeErrors, which carry nothing else to know them by.
    """
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def out_of_memory_hint(micro_batch_size: int, is_auto: bool) -> str:
    """For a step that needs more memory than there is."""
    if micro_batch_size > 1:
        half = f"train.micro_batch_size = {micro_batch_size // 2} halves what the activations take"
    else:
        half = "half the model.block_size halves what the activations take"
    auto = "" if is_auto or micro_batch_size == 1 else ', and "auto" finds the largest that fits'
    return f"out of memory with micro-batches of {micro_batch_size} windows; {half}{auto}"


def micro_batch_size(run: Trainer) -> int:
    """As the experiment says; "auto" is the largest that fits, the same on all ranks."""
    wanted, device = run.experiment.train.micro_batch_size, run.precision.device
    share = ceil_div(run.experiment.batch_windows, run.world.size)
    if wanted != "auto":
        return min(wanted or share, share)
    batch = run.batches.at(0)

    def loss_of(windows: int) -> Tensor:
        ids, targets, segments = batch.micro_batches(windows, device)[0]
        with run.precision.autocast():
            loss: Tensor = run.model(ids, targets, **({} if segments is None else {"segments": segments}))
        return loss

    with own_rng(run.experiment.train.seed):
        size = largest_that_fits(share, loss_of, device, 1 if device == "cuda" else run.world.local_size)
    reshard(run.model)
    return -run.world.most(-size)  # the smallest


def largest_that_fits(windows: int, step: Callable[[int], Tensor], device: str, processes: int) -> int:
    """The largest micro-batch, up to `windows`, whose activations have room among `processes` that share the device.

    `step` gives the loss of a micro-batch of that many windows. What one more window keeps for the backward pass is
    counted, not tried: on a CPU trying would end in the process being killed.
    """
    free = free_bytes(device)
    if free is None or windows == 1:
        return windows
    per_window = max(1, kept_bytes(step, 2) - kept_bytes(step, 1))
    return max(1, min(windows, int(SHARE * free / processes / per_window)))


def kept_bytes(step: Callable[[int], Tensor], windows: int) -> int:
    """Of all storages that the loss of so many windows keeps for its backward pass."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = step(windows)
    del loss
    gc.collect()
    return sum(kept.values())
