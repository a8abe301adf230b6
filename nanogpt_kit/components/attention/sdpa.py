"""Scaled dot-product attention through torch's fused kernels.

Source: Vaswani et al. 2017, arXiv:1706.03762; kernels: Dao et al. 2022, arXiv:2205.14135.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt_kit.api import Attention, LayerContext, View


class SDPA(Attention):
    def build(self, ctx: LayerContext) -> nn.Module:
        return FusedAttention(ctx.dropout)


class FusedAttention(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout

    def forward(self, q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
        return F.scaled_dot_product_attention(  # (B, H, T, D)
            q,
            k,
            v,
            attn_mask=None if view.causal_square else view.mask,
            is_causal=view.causal_square,
            dropout_p=self.dropout if self.training else 0.0,
            enable_gqa=k.size(1) != q.size(1),
        )
