"""How the cores of a CPU share the work of a step.

OpenMP splits every single operation among its threads, and after each they wait for each other; on small networks that
takes longer than computing. So the windows of a micro-step are shared among threads first, each with a whole forward
and backward pass to itself: they meet once. Measured on two cores of an AMD EPYC in bf16, compiled (kernels were called
from Python then), milliseconds of a step with one core, two threads of OpenMP's, two shares: 40, 41, 23 (128 wide, 12
windows of 64 tokens) and 970, 560, 510 (384 wide, 8 windows of 256).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.integers import ceil_div
from nanogpt_kit.core.kinds import WrappedModel
from nanogpt_kit.core.options import RunContext, components_in, is_thread_safe
from nanogpt_kit.nn.flops import num_params
from nanogpt_kit.nn.uninitialized import build_on_meta

MOST_SHARES = 4  # what they do in Python takes turns; more than two were not measured
# Seconds of its pass, by the estimate below. At 64 wide and 12 windows of 32 two shares took 12.4 ms, the whole 9.4 (in
# fp32, beside other work).
WORTH_A_SHARE = 0.005
# Of one core, roughly: a large product reaches 87 (fp32) and 335 (bf16) on an AMD EPYC with AVX512-BF16 (measured).
CORE_FLOPS = {"fp32": 60e9, "bf16": 200e9, "fp16": 60e9}
WORTH_A_THREAD = 0.02  # seconds of a pass: at 18 ms (4 layers, 128 wide, bf16) a second thread only cost (measured)


@dataclass(frozen=True)
class Cores:
    """What a step takes: `shares` of its windows at a time, each computed by `threads` of torch's.

    What goes through the network undivided, evaluations and samples, is computed by `undivided` threads.
    """

    shares: int
    threads: int
    undivided: int

    def __str__(self) -> str:
        count = self.shares * self.threads
        split = f", the windows in {self.shares} shares" if self.shares > 1 else ""
        return f"{count} thread{'s' if count > 1 else ''}{split}"

    @classmethod
    def choose(cls, experiment: Experiment, ctx: RunContext, vocab_size: int) -> Cores:
        """At most as many as the experiment or OMP_NUM_THREADS says; else as a forward and backward pass keeps busy."""
        told = experiment.train.threads
        most = told or torch.get_num_threads()
        if ctx.device != "cpu":
            return cls(1, most, most)
        windows = ceil_div(experiment.batch_windows, ctx.world_size)
        if isinstance(experiment.train.micro_batch_size, int):
            windows = min(windows, experiment.train.micro_batch_size)
        module = build_on_meta(experiment.model, vocab_size)
        if module is None:
            return cls(1, most, most)
        seconds = 6 * num_params(module) * windows * ctx.block_size / CORE_FLOPS[ctx.precision]
        useful = min(MOST_SHARES, most, windows, int(seconds / WORTH_A_SHARE)) if can_share(experiment, ctx) else 1

        def slowness(shares: int) -> float:
            """The largest share, and what operations gain by threads: twice as many do not halve small ones."""
            return ceil_div(windows, shares) / math.sqrt(most // shares)

        shares = min(range(1, max(1, useful) + 1), key=slowness)
        if told or "OMP_NUM_THREADS" in os.environ:
            return cls(shares, most // shares, most)
        busy = int(seconds / WORTH_A_THREAD)
        return cls(shares, max(1, min(most // shares, busy // shares)), max(1, min(most, busy)))


def can_share(experiment: Experiment, ctx: RunContext) -> bool:
    """Whether each part of the network says that threads may call it at a time, and nothing else stands against it."""
    parts = [component for _, component in components_in(experiment.model)]
    safe = all(is_thread_safe(component) for component in (experiment.parallel, experiment.model, *parts))
    return safe and ctx.world_size == 1 and not experiment.train.activation_checkpointing  # which moves random states


class ThreadedModel:
    """A Spread whose windows are shared among threads of this process.

    The shares of a first batch of each shape go through one after another, for a compiler; so do those that a module's
    hooks look at. The sums are the same all the same. Where a parameter has hooks of its own, nothing is shared.
    """

    def __init__(self, spread: WrappedModel, model: nn.Module, shares: int) -> None:
        self.wrap = spread
        self.shares = shares
        self.modules = list(model.modules())
        self.parameters = list(model.parameters())
        self.pool = ThreadPoolExecutor(shares - 1, "windows", torch.set_num_threads, (torch.get_num_threads(),))
        self.anchor = torch.zeros((), requires_grad=True)  # what makes autograd ask for gradients
        self.seen: set[torch.Size] = set()

    def __call__(self, ids: Tensor, targets: Tensor, segments: Tensor | None = None) -> Tensor:
        dtype, enabled = torch.get_autocast_dtype("cpu"), torch.is_autocast_enabled("cpu")

        def forward(*windows: Tensor) -> Tensor:
            # Each thread has a state of its own, but for the cache of cast weights, which any of them would empty
            with torch.autocast("cpu", dtype, enabled, cache_enabled=False):
                return self.wrap(*windows)

        batch = [ids, targets] if segments is None else [ids, targets, segments]
        if any(p._backward_hooks or p._post_accumulate_grad_hooks for p in self.parameters):
            return self.wrap(*batch)
        count = min(self.shares, len(ids))
        shares = zip(*(tensor.tensor_split(count) for tensor in batch), strict=True)
        in_turn = ids.shape not in self.seen or any(map(is_watched, self.modules))
        self.seen.add(ids.shape)
        losses = self.all([partial(forward, *share) for share in shares], in_turn)
        total: Tensor = Joined.apply(self.anchor, self, losses, in_turn)  # type: ignore[no-untyped-call]
        return total

    def all(self, works: list[Callable[[], Any]], in_turn: bool) -> list[Any]:
        """What they return; the first is done by this thread."""
        if in_turn:
            return [work() for work in works]
        others = [self.pool.submit(work) for work in works[1:]]
        try:
            first = works[0]()
        finally:
            wait(others)
        return [first, *(other.result() for other in others)]

    def backward(self, losses: list[Tensor], grad: Tensor, in_turn: bool) -> None:
        """Adds to the parameters' gradients, as `Tensor.backward` does."""
        first, *others = losses
        parameters = [parameter for parameter in self.parameters if parameter.requires_grad]
        apart = partial(torch.autograd.grad, inputs=parameters, grad_outputs=grad, allow_unused=True)
        _, *found = self.all([partial(first.backward, grad), *(partial(apart, loss) for loss in others)], in_turn)
        for gradients in found:
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is None:
                    continue
                if parameter.grad is None:  # the first share has none
                    parameter.grad = torch.zeros_like(parameter)
                parameter.grad.add_(gradient)

    def sync(self, last: bool) -> AbstractContextManager[None]:
        return self.wrap.sync(last)

    def clip(self, max_norm: float) -> Tensor:
        return self.wrap.clip(max_norm)


class Joined(torch.autograd.Function):
    """The sum of losses whose graphs are walked by threads of their own."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, shared: ThreadedModel, losses: list[Tensor], in_turn: bool) -> Tensor:
        ctx.shared, ctx.losses, ctx.in_turn = shared, losses, in_turn
        return torch.stack([loss.detach() for loss in losses]).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, ...]:
        ctx.shared.backward(ctx.losses, grad, ctx.in_turn)
        return None, None, None, None


def is_watched(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )
