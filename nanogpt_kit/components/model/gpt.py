"""GPT: a pre-norm transformer decoder whose parts are components.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners" (GPT-2); the names of options and
layers follow nanoGPT. With its default parts this is GPT-2 (whose own GELU was the tanh one), with `bias = false`
nanoGPT's variant of it.

Shapes: B batch, T tokens (queries), S keys, C n_embd, H n_head, Hkv n_kv_head, D = C / H, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from typing import Self

import torch
from torch import Tensor, nn

from nanogpt_kit.api import (
    MLP,
    Attention,
    Field,
    HeadLinear,
    KVCache,
    LayerContext,
    Model,
    ModelContext,
    Norm,
    Position,
    Positional,
    ResidualLinear,
    View,
    linear_cross_entropy,
    model_validator,
    option_error,
    slot,
    softcapped,
)


class GPT(Model):
    n_layer: int = Field(12, ge=1, le=10_000, description="blocks")
    n_head: int = Field(12, ge=1, description="attention heads of each block")
    n_kv_head: int | None = Field(
        None, ge=1, description="heads of keys and values, each shared by n_head / n_kv_head queries; left out: n_head"
    )
    n_embd: int = Field(768, ge=1, le=2**20, description="features of each position")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of features dropped in training, where GPT-2 drops them")
    bias: bool = Field(True, description="biases in linear layers and layer norms, as in GPT-2")
    qk_norm: bool = Field(False, description="whether each head's queries and keys are normalised, by `norm`")
    weight_tying: bool = Field(True, description="whether the head's weight is the token embedding's")
    logit_softcap: float | None = Field(None, gt=0, description="bends logits into plus and minus this; left out: not")
    vocab_multiple: int = Field(
        64,
        ge=1,
        le=2**20,
        description="rows of embedding and head are rounded up to it, as matrix units want; none is drawn",
    )
    attention: Attention = slot("sdpa")
    position: Position = slot("learned")
    norm: Norm = slot("layernorm")
    mlp: MLP = slot("gelu")

    @model_validator(mode="after")
    def _heads_share_the_features(self) -> Self:
        if self.n_embd % self.n_head:
            raise option_error("n_embd", f"should be a multiple of n_head ({self.n_head}), got {self.n_embd}")
        if self.n_kv_head and self.n_head % self.n_kv_head:
            raise option_error("n_kv_head", f"should divide n_head ({self.n_head}), got {self.n_kv_head}")
        return self

    @property
    def relative(self) -> bool:  # type: ignore[override]
        return self.position.relative

    def build(self, ctx: ModelContext) -> nn.Module:
        layer = LayerContext(
            n_embd=self.n_embd,
            n_head=self.n_head,
            n_kv_head=self.n_kv_head or self.n_head,
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
        self.vocab_size = vocab_size
        self.logit_softcap = parts.logit_softcap
        rows = -(-vocab_size // parts.vocab_multiple) * parts.vocab_multiple  # rounded up
        self.wte = nn.Embedding(rows, ctx.n_embd)
        self.position = parts.position.build(ctx)
        self.drop = nn.Dropout(ctx.dropout)
        self.h = nn.ModuleList(Block(parts, ctx) for _ in range(ctx.n_layer))
        self.ln_f = parts.norm.build(ctx)
        self.lm_head = HeadLinear(ctx.n_embd, rows, bias=False)
        if parts.weight_tying:
            self.lm_head.weight = self.wte.weight  # Press & Wolf 2017, arXiv:1608.05859

    def forward(
        self,
        ids: Tensor,
        targets: Tensor | None = None,
        cache: KVCache | None = None,
        segments: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, T, V); or, given targets (B, T), the fp32 sum of the losses of all that are not -1.

        With a cache, `ids` go on where its tokens end, and the logits may be those of the newest alone. Given segments
        (B, T), tokens see those of their own one only.
        """
        T, slopes = ids.size(1), self.position.slopes()
        reach = T if cache is None else cache.reach(T)
        assert reach <= self.block_size, f"{reach} tokens do not fit a block_size of {self.block_size}"
        if cache is None:
            view = View.causal(torch.arange(T, device=ids.device)[None], segments, slopes)
        else:
            view = cache.view(T, ids.device, slopes)

        x = self.wte(ids)  # (B, T, C)
        x = self.drop(self.position.embed(x, view.query_positions))
        for layer, block in enumerate(self.h):
            x = block(x, self.position, view, layer, cache)
        if cache is not None:
            cache.advance(T)
            x = x[:, -1:] if cache.newest_only and targets is None else x
        x = self.ln_f(x)

        if targets is not None:
            return linear_cross_entropy(x, self.lm_head.weight, targets, self.vocab_size, self.logit_softcap)
        logits: Tensor = self.lm_head(x)[..., : self.vocab_size]  # (B, T, V), without the padding
        return softcapped(logits, self.logit_softcap)

    def crop(self, block_size: int) -> None:
        """Shortens the context in place, as for fine-tuning on shorter windows."""
        assert block_size <= self.block_size, f"a block_size of {self.block_size} cannot grow to {block_size}"
        self.block_size = block_size
        self.position.crop(block_size)


class Block(nn.Module):
    def __init__(self, parts: GPT, ctx: LayerContext) -> None:
        super().__init__()
        self.ln_1 = parts.norm.build(ctx)
        self.attn = SelfAttention(parts, ctx)
        self.ln_2 = parts.norm.build(ctx)
        self.mlp = parts.mlp.build(ctx)

    def forward(self, x: Tensor, position: Positional, view: View, layer: int, cache: KVCache | None) -> Tensor:
        x = x + self.attn(self.ln_1(x), position, view, layer, cache)  # (B, T, C)
        x = x + self.mlp(self.ln_2(x))
        return x


class SelfAttention(nn.Module):
    """Projections around the attention component, which only mixes values."""

    def __init__(self, parts: GPT, ctx: LayerContext) -> None:
        super().__init__()
        self.heads = [ctx.n_head, ctx.n_kv_head, ctx.n_kv_head]
        self.head_dim = ctx.head_dim
        self.c_attn = nn.Linear(ctx.n_embd, sum(self.heads) * ctx.head_dim, bias=ctx.bias)
        head = dataclasses.replace(ctx, n_embd=ctx.head_dim)  # Henry et al. 2020, arXiv:2010.04245
        self.q_norm = parts.norm.build(head) if parts.qk_norm else nn.Identity()
        self.k_norm = parts.norm.build(head) if parts.qk_norm else nn.Identity()
        self.attention = parts.attention.build(ctx)
        self.c_proj = ResidualLinear(ctx.n_embd, ctx.n_embd, bias=ctx.bias)
        self.drop = nn.Dropout(ctx.dropout)

    def forward(self, x: Tensor, position: Positional, view: View, layer: int, cache: KVCache | None) -> Tensor:
        heads = self.c_attn(x).view(x.size(0), x.size(1), -1, self.head_dim).transpose(1, 2)  # (B, H + 2 Hkv, T, D)
        q, k, v = heads.split_with_sizes(self.heads, dim=1)  # (B, H or Hkv, T, D)
        q, k = self.q_norm(q).type_as(v), self.k_norm(k).type_as(v)  # autocast computes norms in fp32
        q = position.rotate(q, view.query_positions)
        k = position.rotate(k, view.query_positions)
        if cache is not None:
            k, v = cache.extend(layer, k, v)  # (B, Hkv, S, D)
        y: Tensor = self.attention(q, k, v, view)  # (B, H, T, D)
        y = self.drop(self.c_proj(y.transpose(1, 2).flatten(2)))  # (B, T, C)
        return y
