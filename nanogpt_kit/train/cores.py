"""Divides the work of a step among the cores of a CPU.

OpenMP splits every single operation among its threads, which wait for each other after each one; in small networks the
waiting takes longer than the computation. So the windows of a micro-step are first split into chunks, one for each
thread, and each thread makes a whole forward and backward pass: the threads wait once.

Measured on two cores of an AMD EPYC in bf16, compiled (kernels were called from Python then): a step with one core, two
OpenMP threads or two chunks took 40, 41 or 23 ms (128 wide, 12 windows of 64 tokens) and 970, 560 or 510 ms (384 wide,
8 windows of 256).

`nn.thread_probe` finds out which networks can be split.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import WrappedModel
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.nn.flops import num_params
from nanogpt_kit.nn.thread_probe import training_hazard
from nanogpt_kit.nn.threads import call_concurrently
from nanogpt_kit.nn.training_loss import TrainingLoss, sum_by_name
from nanogpt_kit.nn.training_pass import TrainingPass
from nanogpt_kit.nn.uninitialized import build_on_meta

RECORDED = re.compile(r"([1-9]\d{0,3}) x ([1-9]\d{0,3}), unsplit ([1-9]\d{0,3})")
EnterPass = Callable[[], AbstractContextManager[None]]

MOST_CHUNKS = 4  # their Python code takes turns; more than two were not measured
# Estimated seconds of a pass over one chunk. At 64 wide and 12 windows of 32 tokens, two chunks took 12.4 ms and the
# whole batch 9.4 ms (in fp32, beside other work).
MIN_SECONDS_PER_CHUNK = 0.005
# Of one core, roughly: a large product reaches 87 (fp32) and 335 (bf16) on an AMD EPYC with AVX512-BF16 (measured).
CORE_FLOPS = {"fp32": 60e9, "bf16": 200e9, "fp16": 60e9}
MIN_SECONDS_PER_THREAD = 0.02  # of a pass: at 18 ms (4 layers, 128 wide, bf16) a second thread only cost (measured)


@dataclass(frozen=True)
class CoreAllocation:
    """How a step uses the CPU: its windows are computed in `chunks` at once, each by `threads` threads of torch.

    Passes that are not split, as in evaluation and sampling, use `unsplit_threads` threads.
    """

    chunks: int
    threads: int
    unsplit_threads: int
    unsplit_reason: str = field(
        default="", compare=False
    )  # why the windows are not split, where that would have been faster
    available: int = field(default=1, compare=False)  # threads that the run may use, also where a step uses fewer

    def __str__(self) -> str:
        count = self.chunks * self.threads
        split = f", batch split in {self.chunks}" if self.chunks > 1 else ""
        whole = f", batch not split: {self.unsplit_reason}" if self.unsplit_reason else ""
        return f"{count} thread{'s' if count > 1 else ''}{split}{whole}"

    @classmethod
    def choose(cls, experiment: Experiment, ctx: RunContext, vocab_size: int) -> CoreAllocation:
        """As many threads as the experiment says; else as the run has recorded, on any machine, since another number
        adds in another order; else as OMP_NUM_THREADS says, or as a pass can use."""
        module = build_on_meta(experiment.model, vocab_size) if ctx.device == "cpu" else None
        asked = experiment.train.threads
        if module is None:
            most = asked or torch.get_num_threads()
            return cls(1, most, most, available=most)
        parameters = num_params(module)
        here = cls.choose_here(experiment, ctx, parameters)
        if asked:
            return here
        task = f"cores for {parameters:,} parameters and {experiment.train.batch_tokens:,} tokens"  # recorded alone
        task += f" in {ctx.world_size} processes" * (ctx.world_size > 1)  # a run may continue with another number
        recorded = RECORDED.fullmatch(ctx.machine.choice(task, here.recorded_text))
        if not recorded or recorded[0] == here.recorded_text:
            return here
        chunks, threads, unsplit_threads = map(int, recorded.groups())
        obstacle = split_obstacle(experiment, ctx) if chunks > 1 else here.unsplit_reason
        if chunks > 1 and obstacle:
            return here
        return cls(chunks, threads, unsplit_threads, obstacle or "", here.available)

    @classmethod
    def choose_here(cls, experiment: Experiment, ctx: RunContext, parameters: int) -> CoreAllocation:
        """What suits this machine and a model with that many parameters."""
        asked = experiment.train.threads
        most = asked or torch.get_num_threads()
        windows = -(-experiment.step_plan.most_windows // ctx.world_size)  # of the largest step, rounded up
        if isinstance(experiment.train.micro_batch_size, int):
            windows = min(windows, experiment.train.micro_batch_size)
        seconds = 6 * parameters * windows * ctx.block_size / CORE_FLOPS[ctx.precision]
        chunks, unsplit_reason = best_chunk_count(windows, most, seconds), ""
        if chunks > 1:
            unsplit_reason = split_obstacle(experiment, ctx) or ""
            chunks = 1 if unsplit_reason else chunks
        if asked or "OMP_NUM_THREADS" in os.environ:
            return cls(chunks, most // chunks, most, unsplit_reason, most)
        useful = int(seconds / MIN_SECONDS_PER_THREAD)
        threads, unsplit_threads = max(1, min(most // chunks, useful // chunks)), max(1, min(most, useful))
        return cls(chunks, threads, unsplit_threads, unsplit_reason, most)

    @property
    def recorded_text(self) -> str:
        return f"{self.chunks} x {self.threads}, unsplit {self.unsplit_threads}"


def best_chunk_count(windows: int, threads: int, seconds: float) -> int:
    """The number of chunks that makes the slowest chunk fastest, where a pass over all windows takes `seconds`."""

    def slowness(chunks: int) -> float:
        """Windows of the largest chunk, over what operations gain by threads: twice as many do not halve small ones."""
        return -(-windows // chunks) / math.sqrt(threads // chunks)

    most = min(MOST_CHUNKS, threads, windows, int(seconds / MIN_SECONDS_PER_CHUNK))
    return min(range(1, max(1, most) + 1), key=slowness)


def split_obstacle(experiment: Experiment, ctx: RunContext) -> str | None:
    """Why threads must not compute parts of a batch at once."""
    if ctx.world_size > 1:
        return "each process computes its own windows"
    if experiment.train.activation_checkpointing:
        return "activation checkpointing sets and restores the random state"
    return training_hazard(experiment.model, experiment.parallel, ctx)


class ThreadedModel:
    """A ParallelModel that splits the windows of a batch among threads of this process.

    The chunks of the first batch of each shape are computed one after another, since that may compile, also where the
    model was not to be compiled before; so are all chunks while modules have hooks. The sums are the same either way.
    While a parameter has hooks, nothing is split.
    """

    def __init__(self, wrapped: WrappedModel, model: nn.Module, chunks: int) -> None:
        self.wrapped = wrapped
        self.chunks = chunks
        self.modules = list(model.modules())
        self.parameters = list(model.parameters())
        self.pool = ThreadPoolExecutor(chunks - 1, "windows", torch.set_num_threads, (torch.get_num_threads(),))
        self.anchor = torch.zeros((), requires_grad=True)  # an input that makes autograd call the backward pass
        self.seen: set[tuple[torch.Size, bool]] = set()  # shapes of batches, and whether the model was to be compiled

    def __call__(self, ids: Tensor, targets: Tensor, segments: Tensor | None = None) -> Tensor | TrainingLoss:
        dtype, enabled = torch.get_autocast_dtype("cpu"), torch.is_autocast_enabled("cpu")

        def forward(of_chunk: AbstractContextManager[None], *windows: Tensor) -> Any:
            # Autocast is set for each thread; its cache of cast weights is shared, and any thread would empty it
            with of_chunk, torch.autocast("cpu", dtype, enabled, cache_enabled=False):
                return self.wrapped(*windows)

        batch = [ids, targets] if segments is None else [ids, targets, segments]
        if any(p._backward_hooks or p._post_accumulate_grad_hooks for p in self.parameters):
            found: Tensor | TrainingLoss = self.wrapped(*batch)
            return found
        count = min(self.chunks, len(ids))
        chunks = list(zip(*(tensor.tensor_split(count) for tensor in batch), strict=True))
        passes = passes_of_chunks([len(chunk[0]) for chunk in chunks])
        seen = ids.shape, getattr(self.modules[0], "_compiled_call_impl", None) is not None
        in_turn = seen not in self.seen or any(map(has_hooks, self.modules))
        self.seen.add(seen)
        calls = [partial(forward, enter(), *chunk) for enter, chunk in zip(passes, chunks, strict=True)]
        computed = self.run_all(calls, in_turn)
        losses = [TrainingLoss.of(of_chunk) for of_chunk in computed]
        objectives = [loss.objective for loss in losses]
        total: Tensor = SumOfChunks.apply(self.anchor, self, objectives, passes, in_turn)  # type: ignore[no-untyped-call]
        return total if isinstance(computed[0], Tensor) else total_loss(total, losses)

    def run_all(self, calls: Sequence[Callable[[], Any]], in_turn: bool) -> list[Any]:
        """The results of calls made at once or, `in_turn`, one after another; this thread makes the first call."""
        if in_turn:
            return [call() for call in calls]
        others = [self.pool.submit(call) for call in calls[1:]]
        try:
            first = calls[0]()
        finally:
            wait(others)
        return [first, *(other.result() for other in others)]

    def backward(self, objectives: list[Tensor], passes: list[EnterPass], grad: Tensor, in_turn: bool) -> None:
        """Adds to the parameters' gradients, as `Tensor.backward` does."""
        parameters = [parameter for parameter in self.parameters if parameter.requires_grad]
        with torch.enable_grad():
            # A factor, not an argument: to compare its shape, torch would import SymPy
            scaled = [objective * grad for objective in objectives]

        def gradients_of(objective: Tensor, enter: EnterPass) -> Sequence[Tensor | None]:
            with enter():
                if objective is not scaled[0]:
                    return torch.autograd.grad(objective, parameters, allow_unused=True)
                objective.backward()
                return ()

        calls = [partial(gradients_of, *one) for one in zip(scaled, passes, strict=True)]
        _, *of_others = self.run_all(calls, in_turn)

        def add_to(parameter: Tensor, *gradients: Tensor | None) -> None:
            for gradient in gradients:
                if gradient is None:
                    continue
                if parameter.grad is None:  # the first chunk gave it none
                    parameter.grad = torch.zeros_like(parameter)
                parameter.grad.add_(gradient)

        call_concurrently([partial(add_to, *one) for one in zip(parameters, *of_others, strict=True)], self.chunks)

    def sync(self, last: bool) -> AbstractContextManager[None]:
        return self.wrapped.sync(last)

    def clip(self, max_norm: float) -> Tensor:
        return self.wrapped.clip(max_norm)


class SumOfChunks(torch.autograd.Function):
    """The sum of the chunks' objectives; its backward pass runs theirs, a thread for each."""

    @staticmethod
    def forward(
        ctx: Any,
        anchor: Tensor,
        model: ThreadedModel,
        objectives: list[Tensor],
        passes: list[EnterPass],
        in_turn: bool,
    ) -> Tensor:
        ctx.model, ctx.objectives, ctx.passes, ctx.in_turn = model, objectives, passes, in_turn
        return torch.stack([objective.detach() for objective in objectives]).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, ...]:
        ctx.model.backward(ctx.objectives, ctx.passes, grad, ctx.in_turn)
        return None, None, None, None, None


def passes_of_chunks(sizes: list[int]) -> list[EnterPass]:
    """The part of this thread's pass that each chunk is, given the windows of each."""
    current = TrainingPass.current()
    if current is None:
        return [nullcontext] * len(sizes)
    return [current.part(end - size, size).entered for end, size in zip(accumulate(sizes), sizes, strict=True)]


def total_loss(objective: Tensor, chunks: Sequence[TrainingLoss]) -> TrainingLoss:
    """The sum of the chunks, whose objective is summed already."""
    loss = torch.stack([chunk.loss for chunk in chunks]).sum()
    return TrainingLoss(objective, loss, sum_by_name([chunk.extras for chunk in chunks]))


def has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )
