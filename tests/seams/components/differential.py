"""Differential attention: the difference of two softmax attentions, which cancels what both attend to.

Two of the model's heads, with queries and keys of D features, are one differential head, with values of 2 D:

    y = (1 - lambda_init) rms_norm(attention(q1, k1, v) - lambda attention(q2, k2, v))
    lambda = exp(lq1 . lk1) - exp(lq2 . lk2) + lambda_init,  lambda_init = 0.8 - 0.6 exp(-0.3 layer), layer from 0

Shapes: B batch, T tokens (queries), S keys, C n_embd, H n_head, D = C / H.

Source: Ye et al. 2024, arXiv:2410.05258, section 2.1.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt_kit.api import KitError, KVCache, Mixer, MixerContext, Positional, ResidualLinear, View


class Differential(Mixer):
    uses = ("attention", "position", "document_mask")

    def build(self, ctx: MixerContext) -> nn.Module:
        if ctx.n_head % 2:
            raise KitError(f"differential attention uses heads in pairs; n_head ({ctx.n_head}) should be even")
        return HeadPairs(ctx)


class HeadPairs(nn.Module):
    def __init__(self, ctx: MixerContext) -> None:
        super().__init__()
        assert ctx.attention is not None, "`uses` names it"
        self.layer, self.n_head, self.query_multiplier = ctx.layer, ctx.n_head, ctx.query_multiplier
        self.lambda_init = 0.8 - 0.6 * math.exp(-0.3 * ctx.layer)
        self.c_attn = nn.Linear(ctx.n_embd, 3 * ctx.n_embd, bias=ctx.bias)
        self.lambdas = nn.Parameter(torch.empty(4 * ctx.head_dim).normal_(std=0.1))  # lq1, lk1, lq2, lk2
        self.attention = ctx.attention.build(ctx)
        self.gain = nn.Parameter(torch.ones(2 * ctx.head_dim))
        self.c_proj = ResidualLinear(ctx.n_embd, ctx.n_embd, bias=ctx.bias)
        self.drop = nn.Dropout(ctx.dropout)

    def forward(self, x: Tensor, position: Positional, view: View, cache: KVCache | None) -> Tensor:
        q, k, v = self.c_attn(x).chunk(3, dim=-1)  # (B, T, C)
        q, k = (part.unflatten(2, (self.n_head, -1)).transpose(1, 2) for part in (q, k))  # (B, H, T, D)
        v = v.unflatten(2, (self.n_head // 2, -1)).transpose(1, 2)  # (B, H / 2, T, 2 D)
        q = position.rotate(q * self.query_multiplier, view.query_positions)
        k = position.rotate(k, view.query_positions)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)  # (B, H, S, D) and (B, H / 2, S, 2 D)
        heads = self.attention(q, k, v.repeat_interleave(2, dim=1), view)  # (B, H, T, 2 D)
        first, second = heads[:, 0::2], heads[:, 1::2]  # (B, H / 2, T, 2 D)
        lq1, lk1, lq2, lk2 = self.lambdas.chunk(4)
        factor = torch.exp((lq1 * lk1).sum()) - torch.exp((lq2 * lk2).sum()) + self.lambda_init
        difference = first - factor * second
        y = F.rms_norm(difference, self.gain.shape, eps=1e-5) * self.gain * (1 - self.lambda_init)
        y = self.drop(self.c_proj(y.transpose(1, 2).flatten(2).type_as(x)))  # (B, T, C)
        return y
