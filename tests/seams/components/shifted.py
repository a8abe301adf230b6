"""The features of a trained model are moved before its output head by a vector, which alone is trained."""

import copy
from typing import ClassVar

import torch
from torch import Tensor, nn

from nanogpt_kit.api import Model, ModelContext, slot


class Shifted(Model):
    inner_slot: ClassVar[str | None] = "inner"
    inner: Model = slot("gpt", description="model that is frozen")

    def build(self, ctx: ModelContext) -> nn.Module:
        module = self.inner.model_copy(update={"block_size": self.block_size}).build(ctx).requires_grad_(False)
        module.ln_f.__class__ = ShiftedNorm
        module.ln_f.shift = nn.Parameter(torch.zeros_like(module.ln_f.bias))
        return module

    def merge(self, module: nn.Module) -> nn.Module:
        merged = copy.deepcopy(module)
        norm = merged.ln_f
        norm.bias.data += norm.shift.data
        del norm.shift
        norm.__class__ = nn.LayerNorm
        return merged


class ShiftedNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.shift
