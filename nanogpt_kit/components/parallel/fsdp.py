"""Fully sharded data parallel: each process holds a part of every weight, gradient and optimizer state.

The layers are gathered one after the other while they are computed, in the short type of the run's precision, their
norms and what flows between them too, which ddp leaves in fp32; gradients are summed in fp32.

Source: Zhao et al. 2023, "PyTorch FSDP", arXiv:2304.11277; torch's `fully_shard`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from nanogpt_kit.api import Field, Parallel, ParallelModel, RunContext, clip_gradients, transformer_blocks

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class FSDP(Parallel):
    reshard_after_forward: bool = Field(
        True, description="whether gathered layers are given back before the backward pass: less memory, more traffic"
    )

    def refuses(self, ctx: RunContext) -> str | None:
        if ctx.device == "mps":
            return "fsdp needs cuda or cpu"
        if ctx.world_size == 1:
            return "fsdp is several processes, and one was started; start more (--nproc, torchrun), or take single"
        return None

    def wrap(self, model: nn.Module, ctx: RunContext) -> ParallelModel:
        policy = MixedPrecisionPolicy(param_dtype=DTYPES.get(ctx.precision), reduce_dtype=torch.float32)
        for block in transformer_blocks(model):
            fully_shard(block, mp_policy=policy, reshard_after_forward=self.reshard_after_forward)
        fully_shard(model, mp_policy=policy, reshard_after_forward=self.reshard_after_forward)
        return Shards(model)


class Shards:
    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.parameters = list(model.parameters())
        self.parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
        for part in self.parts:
            part.set_gradient_divide_factor(1.0)  # the loss is divided by the tokens of all ranks already
            part.set_force_sum_reduction_for_comms(True)  # gloo knows no other

    def __call__(self, ids: Tensor, targets: Tensor, segments: Tensor | None = None) -> Tensor:
        more = {} if segments is None else {"segments": segments}
        loss: Tensor = self.model(ids, targets, **more)
        return loss

    def sync(self, last: bool) -> AbstractContextManager[None]:
        for part in self.parts:
            part.set_requires_gradient_sync(last, recurse=False)
        return nullcontext()

    def clip(self, max_norm: float) -> Tensor:
        return clip_gradients(self.parameters, max_norm)
