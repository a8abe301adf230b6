"""Fully sharded data parallel: each process has a part of every weight, gradient and optimizer state.

Layers are gathered one after another as they are computed, in the 16-bit type of the run's precision; norms and the
residual stream have that type too, which ddp leaves in fp32. Gradients are summed in fp32.

Source: Zhao et al. 2023, "PyTorch FSDP", arXiv:2304.11277; torch's `fully_shard`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from nanogpt_kit.api import Field, Parallel, ParallelModel, RunContext

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class FSDP(Parallel):
    reshard_after_forward: bool = Field(
        True, description="release of gathered layers between forward and backward pass: less memory, more traffic"
    )

    def refusal_reason(self, ctx: RunContext) -> str | None:
        if ctx.device == "mps":
            return "fsdp requires cuda or cpu"
        if ctx.world_size == 1:
            return (
                "fsdp requires several processes, and one was started; start more (--nproc, torchrun) or choose single"
            )
        return None

    def wrap(self, model: nn.Module, ctx: RunContext) -> ParallelModel:
        policy = MixedPrecisionPolicy(param_dtype=DTYPES.get(ctx.precision), reduce_dtype=torch.float32)
        # Without a mesh torch takes the machine's GPUs, also for a run on its CPU
        mesh = init_device_mesh(ctx.device, (ctx.world_size,))
        for block in ParallelModel.blocks(model):
            fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=self.reshard_after_forward)
        # The backward pass begins with the embedding and the head, and would gather them again at once
        fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
        return ShardedModel(model)


class ShardedModel(ParallelModel):
    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
        for part in self.parts:
            part.set_gradient_divide_factor(1.0)  # the loss is already divided by the tokens of all ranks
            part.set_force_sum_reduction_for_comms(True)  # gloo has no other

    def sync(self, last: bool) -> AbstractContextManager[None]:
        for part in self.parts:
            part.set_requires_gradient_sync(last, recurse=False)
        return nullcontext()
