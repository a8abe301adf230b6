"""SwiGLU: one half of the inner features, through SiLU, gates the other half.

Source: Shazeer 2020, arXiv:2002.05202, which also takes 2/3 of the width, so that three matrices are as large as two.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt_kit.api import MLP, Field, LayerContext, ResidualLinear

WIDTH_MULTIPLE = 8  # of inner features, for fast matrix products


class SwiGLU(MLP):
    width: float = Field(
        8 / 3,
        gt=0,
        description="inner features, as a multiple of n_embd, rounded to multiples of 8; 8/3 has gelu's parameters",
    )

    def build(self, ctx: LayerContext) -> nn.Module:
        return GatedMLP(ctx, max(1, round(self.width * ctx.n_embd / WIDTH_MULTIPLE)) * WIDTH_MULTIPLE)


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
