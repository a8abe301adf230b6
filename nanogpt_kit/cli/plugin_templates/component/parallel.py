"""Each process has the whole model, and one all-reduce of all gradients follows the last micro-step.

Change when and how gradients are summed over the processes. Unlike `ddp` this one does not sum some gradients while
others are still computed, so it is slower, and short. Source: Li et al. 2020, arXiv:2006.15704, section 3.2.1, where it
is the naive solution.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn

from nanogpt_kit.api import Parallel, ParallelModel, RunContext


class OneReduce(Parallel):
    def wrap(self, model: nn.Module, ctx: RunContext) -> ParallelModel:
        return OneReduceModel(model)


class OneReduceModel(ParallelModel):
    @contextmanager
    def sync(self, last: bool) -> Iterator[None]:
        yield
        if not last or not dist.is_initialized():
            return
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)  # the sum: the loss is already divided by the tokens of all processes
        for gradient, summed in zip(gradients, flat.split([one.numel() for one in gradients]), strict=True):
            gradient.copy_(summed.view_as(gradient))
