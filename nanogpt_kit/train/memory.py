"""The memory of a run: measuring it, and choosing micro-batches that fit."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from nanogpt_kit.checkpoint.rng import isolated_rng
from nanogpt_kit.core.errors import Fault, KitError, OutOfMemory, key_parts
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.integers import ceil_div
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.core.sections import Train
from nanogpt_kit.core.step_plan import BATCH_TOKENS
from nanogpt_kit.data.batches import Batch
from nanogpt_kit.nn.sharded import reshard
from nanogpt_kit.nn.training_loss import TrainingLoss
from nanogpt_kit.nn.uninitialized import add_model_location, check_model_size, machine_memory_bytes, tensor_bytes
from nanogpt_kit.train.precision import Precision
from nanogpt_kit.train.progress import Progress
from nanogpt_kit.train.world import World

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
TOKEN_BYTES = 16  # of a batch: an id and a target of int64 each
ACTIVATION_FRACTION = 0.5  # of the free memory: gradients and the optimizer's state come later


def memory_metrics(device: str) -> dict[str, float]:
    """{"memory/peak_bytes": ...}: of the accelerator, or of the process; empty where the system does not report it."""
    peak = peak_bytes(device)
    return {} if peak is None else {"memory/peak_bytes": float(peak)}


def peak_bytes(device: str) -> int | None:
    """The most memory used so far: of the accelerator, or of the process; None where the system does not report it."""
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
    """Memory of the device that no process uses; None where the system does not report it."""
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
    available = machine_memory_bytes()
    if available is None:
        return
    if module is not None:
        try:  # GPUs together may have more memory than the machine that builds the model
            trains_here = experiment.total_steps and ctx.device == "cpu" and ctx.world_size == 1
            copies = 1 + experiment.optimizer.state_copies() if trains_here else 0
            trained = sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)
            what = f"{1 + copies} copies (weights, gradients, optimizer)" if copies > 1 else ""
            needed, most = tensor_bytes(module) + copies * trained, "of this machine's memory"
            check_model_size(experiment.model, needed, available, most, what)
        except KitError as error:
            raise KitError(*(add_model_location(fault, experiment) for fault in error.faults)) from None
    batch_tokens = experiment.step_plan.most_windows * experiment.model.block_size
    needed = batch_tokens * TOKEN_BYTES // ctx.world_size
    if experiment.total_steps and needed > available:
        reason = (
            f"a batch of {batch_tokens:,} tokens takes at least {needed:,} bytes, and this machine has {available:,}"
        )
        key = "train.batch_tokens"
        if batch_tokens > experiment.train.batch_tokens:
            key = f"{experiment.schedule_key(BATCH_TOKENS)}.target"
        remedy = "several updates with smaller batches need less"
        raise KitError(Fault(f"{reason}; {remedy}", key, experiment.location(key_parts(key))))


def keep_freed_memory() -> None:
    """Makes this process keep freed memory for the tensors of the next step, as long as it lives.

    The C library returns large blocks to the system at once, and the system hands them out again zeroed, page by page:
    200,000 page faults per step of GPT-2 124M on a CPU, a fifth of its time (measured on two cores). Only glibc has
    options for it.
    """
    if sys.platform != "linux":
        return
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    set_option(M_MMAP_MAX, 0)  # no block is mapped by itself, to be unmapped where it is freed
    set_option(M_TRIM_THRESHOLD, -1)  # and nothing is returned to the system


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory of the device or of the machine ran out.

    CUDA has an error type. The CPU's allocator and MPS raise plain RuntimeErrors, which only the message identifies.
    """
    phrases = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in phrases)
    )


@contextmanager
def step_memory_hint(options: Train, progress: Progress) -> Iterator[None]:
    """Around a step: raises OutOfMemory with a remedy where memory runs out inside."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        hint = out_of_memory_hint(progress.micro_batch_size, options.micro_batch_size == "auto")
        raise OutOfMemory(f"step {progress.step + 1}: {hint}") from error


def out_of_memory_hint(micro_batch_size: int, is_auto: bool) -> str:
    """The reason and the remedy for a step that needs more memory than there is."""
    if micro_batch_size > 1:
        half = f"train.micro_batch_size = {micro_batch_size // 2} halves what the activations take"
    else:
        half = "half the model.block_size halves what the activations take"
    auto = "" if is_auto or micro_batch_size == 1 else ', and "auto" finds the largest that fits'
    return f"out of memory with micro-batches of {micro_batch_size} windows; {half}{auto}"


def choose_micro_batch_size(
    options: Train,
    windows: int,  # of the largest step on one rank
    largest_batch: Callable[[], Batch],
    model: nn.Module,
    precision: Precision,
    world: World,
    progress: Progress,
) -> int:
    """The experiment's micro_batch_size; omitted: all windows; "auto": as few equal micro-batches as fit on every rank.

    A resumed run keeps what "auto" has found, since another number rounds differently.
    """
    setting = options.micro_batch_size
    if setting != "auto":
        return min(setting or windows, windows)
    if progress.micro_batch_size:
        return progress.micro_batch_size
    batch, device = largest_batch(), precision.device

    def loss_of(count: int) -> Tensor | TrainingLoss:
        ids, targets, segments = batch.micro_batches(count, device)[0]
        with precision.autocast():
            loss: Tensor | TrainingLoss = model(ids, targets, **({} if segments is None else {"segments": segments}))
        return loss

    with isolated_rng(options.seed):
        size = largest_micro_batch(windows, loss_of, device, 1 if device == "cuda" else world.local_size)
    reshard(model)
    smallest = -world.max(-size)
    # As few micro-steps as with it, of equal sizes: another one for the last would be compiled, too
    return ceil_div(windows, ceil_div(windows, smallest))


def largest_micro_batch(windows: int, step: Callable[[int], object], device: str, processes: int) -> int:
    """The largest micro-batch, up to `windows`, whose activations fit where `processes` share the device.

    `step` gives the loss of a micro-batch of that many windows. The memory that one more window keeps for the backward
    pass is counted, not tried: on a CPU the system would kill the process.
    """
    free = free_bytes(device)
    if free is None or windows == 1:
        return windows
    per_window = max(1, saved_bytes(step, 2) - saved_bytes(step, 1))
    return max(1, min(windows, int(ACTIVATION_FRACTION * free / processes / per_window)))


def saved_bytes(step: Callable[[int], object], windows: int) -> int:
    """The size of all storages that the loss of `windows` windows saves for its backward pass."""
    sizes: dict[int, int] = {}  # by address

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = step(windows)
    del loss
    gc.collect()
    return sum(sizes.values())
