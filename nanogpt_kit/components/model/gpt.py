"""GPT: a pre-norm transformer decoder whose parts are components.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners" (GPT-2); the names of options and
layers follow nanoGPT. With its default parts this is GPT-2, with `bias = false` nanoGPT's variant of it.

Shapes: B batch, T tokens (queries), S keys, C n_embd, H n_head, D = C / H, V vocabulary.
"""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt_kit.api import (
    MLP,
    Attention,
    Field,
    HeadLinear,
    LayerContext,
    Model,
    ModelContext,
    Norm,
    Position,
    Positional,
    ResidualLinear,
    View,
    fault,
    model_validator,
    slot,
)


class GPT(Model):
    n_layer: int = Field(12, ge=1, description="blocks")
    n_head: int = Field(12, ge=1, description="attention heads of each block")
    n_embd: int = Field(768, ge=1, description="features of each position")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of features dropped in training, where GPT-2 drops them")
    bias: bool = Field(True, description="biases in linear layers and layer norms, as in GPT-2")
    attention: Attention = slot("sdpa")
    position: Position = slot("learned")
    norm: Norm = slot("layernorm")
    mlp: MLP = slot("gelu")

    @model_validator(mode="after")
    def _heads_share_the_features(self) -> Self:
        if self.n_embd % self.n_head:
            raise fault("n_embd", f"should be a multiple of n_head ({self.n_head}), got {self.n_embd}")
        return self

    def build(self, ctx: ModelContext) -> nn.Module:
        layer = LayerContext(
            n_embd=self.n_embd,
            n_head=self.n_head,
            head_dim=self.n_embd // self.n_head,
            n_layer=self.n_layer,
            block_size=self.block_size,
            dropout=self.dropout,
            bias=self.bias,
        )
        return Transformer(self, layer, ctx.vocab_size)


class Transformer(nn.Module):
    def __init__(self, parts: GPT, ctx: LayerContext, vocab_size: int) -> None:
        super().__init__()
        self.block_size = ctx.block_size
        self.wte = nn.Embedding(vocab_size, ctx.n_embd)
        self.position = parts.position.build(ctx)
        self.drop = nn.Dropout(ctx.dropout)
        self.h = nn.ModuleList(Block(parts, ctx) for _ in range(ctx.n_layer))
        self.ln_f = parts.norm.build(ctx)
        self.lm_head = HeadLinear(ctx.n_embd, vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight  # tied: Press & Wolf 2017, arXiv:1608.05859

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> Tensor:
        """Logits (B, T, V); or, given targets (B, T), the fp32 sum of the losses of all that are not -1."""
        T = ids.size(1)
        assert self.block_size >= T, f"{T} tokens do not fit a block_size of {self.block_size}"
        positions = torch.arange(T, device=ids.device)[None]  # (1, T)
        view = View.causal(positions)

        x = self.wte(ids)  # (B, T, C)
        x = self.drop(self.position.embed(x, positions))
        for block in self.h:
            x = block(x, self.position, view)
        logits: Tensor = self.lm_head(self.ln_f(x))  # (B, T, V)

        if targets is None:
            return logits
        flat = logits.float().flatten(0, 1)  # (B * T, V)
        return F.cross_entropy(flat, targets.flatten(), ignore_index=-1, reduction="sum")


class Block(nn.Module):
    def __init__(self, parts: GPT, ctx: LayerContext) -> None:
        super().__init__()
        self.ln_1 = parts.norm.build(ctx)
        self.attn = SelfAttention(parts, ctx)
        self.ln_2 = parts.norm.build(ctx)
        self.mlp = parts.mlp.build(ctx)

    def forward(self, x: Tensor, position: Positional, view: View) -> Tensor:
        x = x + self.attn(self.ln_1(x), position, view)  # (B, T, C)
        x = x + self.mlp(self.ln_2(x))
        return x


class SelfAttention(nn.Module):
    """Projections around the attention component, which only mixes values."""

    def __init__(self, parts: GPT, ctx: LayerContext) -> None:
        super().__init__()
        self.n_head = ctx.n_head
        self.c_attn = nn.Linear(ctx.n_embd, 3 * ctx.n_embd, bias=ctx.bias)
        self.attention = parts.attention.build(ctx)
        self.c_proj = ResidualLinear(ctx.n_embd, ctx.n_embd, bias=ctx.bias)
        self.drop = nn.Dropout(ctx.dropout)

    def forward(self, x: Tensor, position: Positional, view: View) -> Tensor:
        q, k, v = (self.heads(part) for part in self.c_attn(x).chunk(3, dim=-1))  # each (B, H, T, D)
        q = position.rotate(q, view.query_positions)
        k = position.rotate(k, view.key_positions)
        y: Tensor = self.attention(q, k, v, view)  # (B, H, T, D)
        y = self.drop(self.c_proj(y.transpose(1, 2).flatten(2)))  # (B, T, C)
        return y

    def heads(self, x: Tensor) -> Tensor:
        x = x.unflatten(-1, (self.n_head, -1))  # (B, T, C) -> (B, T, H, D)
        return x.transpose(1, 2)  # (B, H, T, D)
