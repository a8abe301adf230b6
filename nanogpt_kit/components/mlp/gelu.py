"""The two-layer MLP of GPT-2, four times as wide inside, with GELU between.

Source: Hendrycks & Gimpel 2016, arXiv:1606.08415.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from nanogpt_kit.api import MLP, Field, LayerContext, ResidualLinear


class GELU(MLP):
    approximate: Literal["none", "tanh"] = Field("none", description="tanh is what OpenAI's GPT-2 computed")

    def build(self, ctx: LayerContext) -> nn.Module:
        return TwoLayers(ctx, nn.GELU(self.approximate))


class TwoLayers(nn.Module):
    def __init__(self, ctx: LayerContext, activation: nn.Module) -> None:
        super().__init__()
        self.c_fc = nn.Linear(ctx.n_embd, 4 * ctx.n_embd, bias=ctx.bias)
        self.activation = activation
        self.c_proj = ResidualLinear(4 * ctx.n_embd, ctx.n_embd, bias=ctx.bias)
        self.drop = nn.Dropout(ctx.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.c_fc(x))  # (B, T, 4C)
        x = self.drop(self.c_proj(x))  # (B, T, C)
        return x
