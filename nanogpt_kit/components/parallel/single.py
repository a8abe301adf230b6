"""One process, one device."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn

from nanogpt_kit.api import Parallel, ParallelModel, RunContext, clip_gradients


class Single(Parallel):
    def refuses(self, ctx: RunContext) -> str | None:
        if ctx.world_size > 1:
            return f"single is one process, but {ctx.world_size} were started; ddp and fsdp are several"
        return None

    def wrap(self, model: nn.Module, ctx: RunContext) -> ParallelModel:
        return OneProcess(model)


class OneProcess:
    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.parameters = list(model.parameters())

    def __call__(self, ids: Tensor, targets: Tensor, segments: Tensor | None = None) -> Tensor:
        more = {} if segments is None else {"segments": segments}
        loss: Tensor = self.model(ids, targets, **more)
        return loss

    def sync(self, last: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def clip(self, max_norm: float) -> Tensor:
        return clip_gradients(self.parameters, max_norm)
