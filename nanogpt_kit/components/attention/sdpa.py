"""Scaled dot-product attention through torch's fused kernels.

Source: Vaswani et al. 2017, arXiv:1706.03762; kernels: Dao et al. 2022, arXiv:2205.14135; windows: Child et al. 2019,
arXiv:1904.10509.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt_kit.api import Attention, Field, LayerContext, View


class SDPA(Attention):
    window: int | None = Field(None, ge=1, description="how many positions a query sees, its own included; else all")

    def build(self, ctx: LayerContext) -> nn.Module:
        return FusedAttention(self.window, ctx.dropout)


class FusedAttention(nn.Module):
    def __init__(self, window: int | None, dropout: float) -> None:
        super().__init__()
        self.window = window
        self.dropout = dropout

    def forward(self, q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
        plain = view.causal_square and view.slopes is None and self.window is None
        return F.scaled_dot_product_attention(  # (B, H, T, D)
            q,
            k,
            v,
            attn_mask=None if plain else self.mask(view, q),
            is_causal=plain,
            dropout_p=self.dropout if self.training else 0.0,
            enable_gqa=k.size(1) != q.size(1),
        )

    def mask(self, view: View, q: Tensor) -> Tensor:
        """(1 or B, 1, T, S) bool; with slopes (1 or B, H, T, S), what is added to the scores."""
        mask = view.mask(self.window)
        if view.slopes is None:
            return mask

        def lower() -> Tensor:
            return view.penalty().masked_fill(~mask, float("-inf")).to(q.dtype)

        added: Tensor = view.once(("sdpa", self.window, q.dtype), lower)
        return added
