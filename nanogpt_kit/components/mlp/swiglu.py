"""SwiGLU: one half of the inner features, through SiLU, gates the other half.

Source: Shazeer 2020, arXiv:2002.05202, which also takes 2/3 of the width, so that three matrices weigh what two did.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt_kit.api import MLP, Field, LayerContext, ResidualLinear

GRANULE = 8  # inner features are a multiple of it, as matrix units want


class SwiGLU(MLP):
    width: float = Field(
        8 / 3, gt=0, description="features inside over n_embd, rounded to a multiple of 8; 8/3 matches gelu"
    )

    def build(self, ctx: LayerContext) -> nn.Module:
        return GatedMLP(ctx, max(1, round(self.width * ctx.n_embd / GRANULE)) * GRANULE)


class GatedMLP(nn.Module):
    def __init__(self, ctx: LayerContext, width: int) -> None:
        super().__init__()
        self.c_gate = nn.Linear(ctx.n_embd, width, bias=ctx.bias)
        self.c_fc = nn.Linear(ctx.n_embd, width, bias=ctx.bias)
        self.c_proj = ResidualLinear(width, ctx.n_embd, bias=ctx.bias)
        self.drop = nn.Dropout(ctx.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.c_gate(x)) * self.c_fc(x)  # (B, T, width)
        x = self.drop(self.c_proj(x))  # (B, T, C)
        return x
