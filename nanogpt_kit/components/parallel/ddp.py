"""Distributed data parallel: each process has the whole model, and gradients are summed over all processes.

Source: Li et al. 2020, "PyTorch Distributed", arXiv:2006.15704.
"""

from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nanogpt_kit.api import Field, Parallel, ParallelModel, RunContext


class DDP(Parallel):
    bucket_mb: int = Field(25, ge=1, description="megabytes of gradients in one all-reduce")

    def wrap(self, model: nn.Module, ctx: RunContext) -> ParallelModel:
        if ctx.world_size == 1 and not dist.is_initialized():
            return ParallelModel(model)
        # Buffers are computed from the options, so they are equal on all ranks. torch has renamed this argument.
        arguments = signature(DistributedDataParallel).parameters
        buffers: Any = {"forward_sync_buffers" if "forward_sync_buffers" in arguments else "broadcast_buffers": False}
        replica = DistributedDataParallel(model, bucket_cap_mb=self.bucket_mb, gradient_as_bucket_view=True, **buffers)
        replica.register_comm_hook(None, all_reduce_sum)
        return ReplicatedModel(replica)


class ReplicatedModel(ParallelModel):
    gradients_stay_local = True
    model: DistributedDataParallel

    def sync(self, last: bool) -> AbstractContextManager[None]:
        no_sync: AbstractContextManager[None] = nullcontext() if last else self.model.no_sync()
        return no_sync


def all_reduce_sum(state: Any, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
    """The sum where torch's default is the mean: the loss is already divided by the tokens of all ranks."""
    reduced = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
    buffer: torch.futures.Future[Tensor] = reduced.then(lambda done: done.value()[0])
    return buffer
