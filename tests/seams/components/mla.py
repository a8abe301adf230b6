"""Multi-head latent attention: one small latent of each token is cached in place of the keys and values of all heads.

    c_t = norm(W_c x_t), of `latent` features;  k_t = W_k c_t,  v_t = W_v c_t by head
    r_t = rotate(W_r x_t), which all heads share, is joined to the keys, and rotated queries to the queries

Shapes: B batch, T tokens (queries), S keys, C n_embd, H n_head, D = C / H, L latent.

Source: DeepSeek-AI 2024, arXiv:2405.04434, section 2.1. Queries are not compressed, and D features are rotated.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from nanogpt_kit.api import Field, KVCache, Mixer, MixerContext, Positional, ResidualLinear, View


class MLA(Mixer):
    uses = ("attention", "position", "document_mask")
    latent: int = Field(16, ge=1, le=2**20, description="features of the latent that is cached for each token")

    def build(self, ctx: MixerContext) -> nn.Module:
        return LatentAttention(ctx, self.latent)


class LatentAttention(nn.Module):
    def __init__(self, ctx: MixerContext, latent: int) -> None:
        super().__init__()
        assert ctx.attention is not None, "`uses` names it"
        self.layer, self.n_head, self.head_dim = ctx.layer, ctx.n_head, ctx.head_dim
        self.query_multiplier = ctx.query_multiplier
        self.sizes = [latent, ctx.head_dim]
        self.queries = nn.Linear(ctx.n_embd, 2 * ctx.n_embd, bias=ctx.bias)  # by head: D to compare, D to rotate
        self.compress = nn.Linear(ctx.n_embd, latent + ctx.head_dim, bias=ctx.bias)  # the latent, the rotated key
        self.norm = ctx.norm.build(dataclasses.replace(ctx, n_embd=latent))
        self.expand = nn.Linear(latent, 2 * ctx.n_embd, bias=ctx.bias)  # by head: a key and a value of D
        self.attention = ctx.attention.build(dataclasses.replace(ctx, n_kv_head=ctx.n_head, head_dim=2 * ctx.head_dim))
        self.c_proj = ResidualLinear(ctx.n_embd, ctx.n_embd, bias=ctx.bias)
        self.drop = nn.Dropout(ctx.dropout)

    def by_head(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, 2 C) to two parts (B, H, T, D)."""
        first, second = x.unflatten(2, (self.n_head, 2, self.head_dim)).permute(3, 0, 2, 1, 4)
        return first, second

    def forward(self, x: Tensor, position: Positional, view: View, cache: KVCache | None) -> Tensor:
        q, q_rotated = self.by_head(self.queries(x) * self.query_multiplier)  # (B, H, T, D)
        q_rotated = position.rotate(q_rotated, view.query_positions)
        compressed, shared = self.compress(x)[:, None].split_with_sizes(self.sizes, dim=-1)  # (B, 1, T, L or D)
        latent = self.norm(compressed).type_as(shared)
        shared = position.rotate(shared, view.query_positions)
        if cache is not None:
            latent, shared = cache.extend(self.layer, latent, shared)  # (B, 1, S, L or D)
        k, v = self.by_head(self.expand(latent[:, 0]))  # (B, H, S, D)
        k = torch.cat([k, shared.expand(-1, self.n_head, -1, -1)], dim=-1)  # (B, H, S, 2 D)
        y = self.attention(torch.cat([q, q_rotated], dim=-1), k, v, view)  # (B, H, T, D)
        y = self.drop(self.c_proj(y.transpose(1, 2).flatten(2)))  # (B, T, C)
        return y
