"""Attention with heads: queries, keys and values are projections of the features, and the heads' results are projected.

Shapes: B batch, T tokens (queries), S keys, C n_embd, H n_head, Hkv n_kv_head, D = C / H.

Source: Vaswani et al. 2017, arXiv:1706.03762; groups of heads that share keys and values: Ainslie et al. 2023,
arXiv:2305.13245; normalization of queries and keys: Henry et al. 2020, arXiv:2010.04245.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor, nn

from nanogpt_kit.api import FusedLinear, KVCache, Mixer, MixerContext, Positional, ResidualLinear, View, take_extra


class Softmax(Mixer):
    uses = ("attention", "n_kv_head", "qk_norm", "position", "document_mask")

    def build(self, ctx: MixerContext) -> nn.Module:
        return SelfAttention(ctx)


class SelfAttention(nn.Module):
    """The projections around the attention component."""

    def __init__(self, ctx: MixerContext) -> None:
        super().__init__()
        assert ctx.attention is not None, "softmax uses an attention"
        self.layer = ctx.layer  # which identifies it in the cache
        self.heads = [ctx.n_head, ctx.n_kv_head, ctx.n_kv_head]
        self.head_dim = ctx.head_dim
        self.query_multiplier = ctx.query_multiplier
        self.c_attn = FusedLinear(ctx.n_embd, [n * ctx.head_dim for n in self.heads], bias=ctx.bias)
        head = dataclasses.replace(ctx, n_embd=ctx.head_dim)
        self.q_norm = ctx.norm.build(head) if ctx.qk_norm else nn.Identity()
        self.k_norm = ctx.norm.build(head) if ctx.qk_norm else nn.Identity()
        self.attention = ctx.attention.build(ctx)
        self.c_proj = ResidualLinear(ctx.n_embd, ctx.n_embd, bias=ctx.bias)
        self.drop = nn.Dropout(ctx.dropout)

    def forward(
        self, x: Tensor, position: Positional, view: View, cache: KVCache | None
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        extras: dict[str, Tensor] = {}
        heads = self.c_attn(x).view(x.size(0), x.size(1), -1, self.head_dim).transpose(1, 2)  # (B, H + 2 Hkv, T, D)
        q, k, v = heads.split_with_sizes(self.heads, dim=1)  # (B, H or Hkv, T, D)
        q = take_extra(extras, "norm", self.q_norm(q)).type_as(v)  # autocast computes norms in fp32
        k = take_extra(extras, "norm", self.k_norm(k)).type_as(v)
        if self.query_multiplier != 1:
            q = q * self.query_multiplier
        q = position.rotate(q, view.query_positions)
        k = position.rotate(k, view.query_positions)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)  # (B, Hkv, S, D)
        y = take_extra(extras, "attention", self.attention(q, k, v, view))  # (B, H, T, D)
        y = self.drop(self.c_proj(y.transpose(1, 2).flatten(2)))  # (B, T, C)
        return (y, extras) if extras else y
