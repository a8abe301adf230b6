"""Gated attention: each feature of the heads' results is multiplied by a sigmoid gate, which the layer's input decides.

Shapes: B batch, T tokens (queries), S keys, C n_embd, H n_head, Hkv n_kv_head, D = C / H.

Source: Qiu et al. 2025, arXiv:2505.06708: the gate at G1, by element.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nanogpt_kit.api import KVCache, Mixer, MixerContext, Positional, ResidualLinear, View


class GatedAttention(Mixer):
    uses = ("attention", "n_kv_head", "position", "document_mask")

    def build(self, ctx: MixerContext) -> nn.Module:
        return GatedHeads(ctx)


class GatedHeads(nn.Module):
    def __init__(self, ctx: MixerContext) -> None:
        super().__init__()
        assert ctx.attention is not None, "`uses` names it"
        self.layer, self.head_dim, self.query_multiplier = ctx.layer, ctx.head_dim, ctx.query_multiplier
        self.heads = [ctx.n_head, ctx.n_kv_head, ctx.n_kv_head]
        self.c_attn = nn.Linear(ctx.n_embd, sum(self.heads) * ctx.head_dim, bias=ctx.bias)
        self.gate = nn.Linear(ctx.n_embd, ctx.n_embd, bias=ctx.bias)
        self.attention = ctx.attention.build(ctx)
        self.c_proj = ResidualLinear(ctx.n_embd, ctx.n_embd, bias=ctx.bias)
        self.drop = nn.Dropout(ctx.dropout)

    def forward(self, x: Tensor, position: Positional, view: View, cache: KVCache | None) -> Tensor:
        heads = self.c_attn(x).unflatten(2, (-1, self.head_dim)).transpose(1, 2)  # (B, H + 2 Hkv, T, D)
        q, k, v = heads.split_with_sizes(self.heads, dim=1)  # (B, H or Hkv, T, D)
        q = position.rotate(q * self.query_multiplier, view.query_positions)
        k = position.rotate(k, view.query_positions)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)  # (B, Hkv, S, D)
        y = self.attention(q, k, v, view).transpose(1, 2).flatten(2)  # (B, T, C)
        y = self.drop(self.c_proj(y * torch.sigmoid(self.gate(x))))
        return y
