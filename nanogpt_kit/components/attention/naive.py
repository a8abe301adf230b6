"""Attention without a fused kernel, as in the paper: slow, and the reference for the others.

Source: Vaswani et al. 2017, arXiv:1706.03762; windows: Child et al. 2019, arXiv:1904.10509.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from nanogpt_kit.api import Attention, Field, LayerContext, View


class Naive(Attention):
    computed_function = "softmax"
    schedulable = ("window",)
    window: int | None = Field(
        None, ge=1, description="positions that a query attends to, its own included; omitted: all"
    )

    def build(self, ctx: LayerContext) -> nn.Module:
        return WrittenOutAttention(self, ctx.dropout)


class WrittenOutAttention(nn.Module):
    def __init__(self, options: Naive, dropout: float) -> None:
        super().__init__()
        self.options = options
        self.window = options.window
        self.drop = nn.Dropout(dropout)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
        groups = q.size(1) // k.size(1)
        k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))  # (B, H, S, D)
        scores = (q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))).float()  # (B, H, T, S)
        if view.slopes is not None:
            scores = scores + view.penalty()
        mask = view.mask(self.window)
        weights: Tensor = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)
        if not view.causal_square:
            weights = weights.masked_fill(~mask, 0.0)  # a row that attends to nothing would be NaN
        weights = self.drop(weights).to(v.dtype)
        return weights @ v  # (B, H, T, D)
