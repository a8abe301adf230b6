"""One process, one device."""

from __future__ import annotations

from torch import nn

from nanogpt_kit.api import Parallel, ParallelModel, RunContext


class Single(Parallel):
    def refusal_reason(self, ctx: RunContext) -> str | None:
        if ctx.world_size > 1:
            return f"single is for one process, and {ctx.world_size} were started; choose ddp or fsdp"
        return None

    def wrap(self, model: nn.Module, ctx: RunContext) -> ParallelModel:
        return ParallelModel(model)
