"""Distributed data parallel: each process holds the whole model, and gradients are summed over all of them.

Source: Li et al. 2020, "PyTorch Distributed", arXiv:2006.15704.
"""

from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nanogpt_kit.api import Field, Parallel, ParallelModel, RunContext, clip_gradients


class DDP(Parallel):
    bucket_mb: int = Field(25, ge=1, description="megabytes of gradients that travel together")

    def wrap(self, model: nn.Module, ctx: RunContext) -> ParallelModel:
        return Replicas(model, ctx, self.bucket_mb)


class Replicas:
    def __init__(self, model: nn.Module, ctx: RunContext, bucket_mb: int) -> None:
        self.parameters = list(model.parameters())
        if ctx.world_size == 1 and not dist.is_initialized():  # one process has nobody to talk to
            self.model: nn.Module = model
            return
        # What is no parameter is computed from the options, the same everywhere. torch has renamed the word for it.
        known = signature(DistributedDataParallel).parameters
        alone: Any = {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}
        self.model = DistributedDataParallel(model, bucket_cap_mb=bucket_mb, gradient_as_bucket_view=True, **alone)
        self.model.register_comm_hook(None, summed)

    def __call__(self, ids: Tensor, targets: Tensor, segments: Tensor | None = None) -> Tensor:
        more = {} if segments is None else {"segments": segments}
        loss: Tensor = self.model(ids, targets, **more)
        return loss

    def sync(self, last: bool) -> AbstractContextManager[None]:
        if last or not isinstance(self.model, DistributedDataParallel):
            return nullcontext()
        quiet: AbstractContextManager[None] = self.model.no_sync()
        return quiet

    def clip(self, max_norm: float) -> Tensor:
        return clip_gradients(self.parameters, max_norm)


def summed(state: Any, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
    """Not averaged: the loss is divided by the tokens of all ranks already."""
    travelling = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
    arrived: torch.futures.Future[Tensor] = travelling.then(lambda done: done.value()[0])
    return arrived
