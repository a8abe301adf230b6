"""Self-attention whose values also have embeddings of the token.

Shapes: B batch, T tokens (queries), S keys, C n_embd, H n_head, Hkv n_kv_head, D = C / H.

Source: Zhou et al. 2024, arXiv:2410.17897 (values of the first layer in all layers); with embeddings in their place
record 14, and their gates record 55, of https://github.com/KellerJordan/modded-nanogpt.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor, nn

from nanogpt_kit.api import FusedLinear, KVCache, MixerContext, Positional, ResidualLinear, View, take_extra
from nanogpt_kit_speedrun.gates import Gate


class ValueEmbedding(nn.Module):
    """A vector of each token for the values of one layer, times a gate for each head where there is one."""

    def __init__(self, ctx: MixerContext, rows: int, gated: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(rows, ctx.n_kv_head * ctx.head_dim)
        self.gate = Gate(ctx.n_embd, ctx.n_kv_head, most=2.0) if gated else None  # 1 while its weight is zero

    def forward(self, ids: Tensor, x: Tensor, v: Tensor) -> Tensor:
        """Adds to v (B, Hkv, T, D) of tokens ids (B, T), where x (B, T, C) are the features that it was made of."""
        B, Hkv, T, D = v.shape
        values: Tensor = self.embedding(ids).view(B, T, Hkv, D).type_as(v)
        if self.gate is not None:
            values = values * self.gate(x)[..., None]  # (B, T, Hkv, 1)
        return v + values.transpose(1, 2)


class ValueAttention(nn.Module):
    """The projections around the attention component."""

    def __init__(self, ctx: MixerContext, values: ValueEmbedding | None) -> None:
        super().__init__()
        assert ctx.attention is not None
        self.layer = ctx.layer  # which identifies it in the cache
        self.heads = [ctx.n_head, ctx.n_kv_head, ctx.n_kv_head]
        self.head_dim = ctx.head_dim
        self.query_multiplier = ctx.query_multiplier
        self.c_attn = FusedLinear(ctx.n_embd, [n * ctx.head_dim for n in self.heads], bias=False)
        head = dataclasses.replace(ctx, n_embd=ctx.head_dim)
        self.q_norm = ctx.norm.build(head) if ctx.qk_norm else nn.Identity()
        self.k_norm = ctx.norm.build(head) if ctx.qk_norm else nn.Identity()
        self.values = values
        self.attention = ctx.attention.build(ctx)
        self.c_proj = ResidualLinear(ctx.n_embd, ctx.n_embd, bias=False)

    def forward(
        self, x: Tensor, ids: Tensor, position: Positional, view: View, cache: KVCache | None
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
        if self.values is not None:
            v = self.values(ids, x, v)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)  # (B, Hkv, S, D)
        y = take_extra(extras, "attention", self.attention(q, k, v, view))  # (B, H, T, D)
        y = self.c_proj(y.transpose(1, 2).flatten(2))  # (B, T, C)
        return (y, extras) if extras else y
