"""GPT: a pre-norm transformer decoder whose parts are components.

Shapes: B batch, T tokens (queries), S keys, C n_embd, H n_head, Hkv n_kv_head, D = C / H, V vocabulary.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners" (GPT-2). Options and layers have
nanoGPT's names. With the default parts this is GPT-2 (which used the tanh approximation of GELU), with `bias = false`
nanoGPT's variant of it.
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
)


class GPT(Model):
    n_layer: int = Field(12, ge=1, le=10_000, description="number of transformer blocks")
    n_head: int = Field(12, ge=1, description="attention heads in each block")
    n_kv_head: int | None = Field(
        None, ge=1, description="key and value heads, each used by n_head / n_kv_head query heads; omitted: n_head"
    )
    n_embd: int = Field(768, ge=1, le=2**20, description="features of each token (embedding width)")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="fraction of features dropped in training, where GPT-2 has dropout"
    )
    bias: bool = Field(True, description="biases in linear layers and norms, as in GPT-2")
    qk_norm: bool = Field(False, description="normalization of each head's queries and keys, by `norm`")
    weight_tying: bool = Field(True, description="one weight for the token embedding and the output head")
    logit_softcap: float | None = Field(
        None, gt=0, description="soft cap: logits are squashed into ± this; omitted: none"
    )
    vocab_multiple: int = Field(
        64,
        ge=1,
        le=2**20,
        description="multiple to which the vocabulary is padded, for fast matrix products; padding is never sampled",
    )
    attention: Attention = slot("sdpa")
    position: Position = slot("learned")
    norm: Norm = slot("layernorm")
    mlp: MLP = slot("gelu")

    @model_validator(mode="after")
    def _heads_share_the_features(self) -> Self:
        if self.n_embd % self.n_head:
            message = f"n_embd ({self.n_embd}) should be a multiple of n_head ({self.n_head})"
            raise option_error("n_embd", message, "n_head")
        if self.n_kv_head and self.n_head % self.n_kv_head:
            message = f"n_head ({self.n_head}) should be a multiple of n_kv_head ({self.n_kv_head})"
            raise option_error("n_kv_head", message, "n_head")
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
        position = parts.position.build(ctx)
        assert isinstance(position, Positional), f"position builds a {type(position).__name__}, not an api.Positional"
        self.position = position
        self.drop = nn.Dropout(ctx.dropout)
        self.h = nn.ModuleList(Block(parts, ctx, layer) for layer in range(ctx.n_layer))
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

        With a cache, `ids` follow the tokens in it, and the logits may be those of the newest token alone. Given
        segments (B, T), tokens attend to those of their own segment only.
        """
        x = self.features(ids, self.view(ids, cache, segments), cache)  # (B, T, C)
        if cache is not None and cache.newest_only and targets is None:
            x = x[:, -1:]  # (B, 1, C)
        x = self.ln_f(x)
        if targets is not None:
            return linear_cross_entropy(x, self.lm_head.weight, targets, self.vocab_size, self.logit_softcap)
        logits: Tensor = self.lm_head(x)[..., : self.vocab_size]  # (B, T, V), without the padding
        return logits if self.logit_softcap is None else self.logit_softcap * torch.tanh(logits / self.logit_softcap)

    def features(self, ids: Tensor, view: View, cache: KVCache | None) -> Tensor:
        """The features of ids (B, T) after the blocks, before the last norm: (B, T, C)."""
        x: Tensor = self.wte(ids)  # (B, T, C)
        x = self.drop(self.position.embed(x, view.query_positions))
        for block in self.h:
            x = block(x, self.position, view, cache)
        if cache is not None:
            cache.advance(ids.size(1))
        return x

    def view(self, ids: Tensor, cache: KVCache | None, segments: Tensor | None) -> View:
        """The view of these tokens, the same for all blocks."""
        T, slopes = ids.size(1), self.position.slopes()
        length = T if cache is None else cache.visible_length(T)
        assert length <= self.block_size, f"{length} tokens do not fit a block_size of {self.block_size}"
        if cache is not None:
            return cache.view(T, ids.device, slopes)
        return View.causal(torch.arange(T, device=ids.device)[None], segments, slopes)

    def crop(self, block_size: int) -> None:
        """Shortens the context in place, for training on shorter windows."""
        assert block_size <= self.block_size, f"a block_size of {self.block_size} cannot grow to {block_size}"
        self.block_size = block_size
        self.position.crop(block_size)


class Block(nn.Module):
    def __init__(self, parts: GPT, ctx: LayerContext, layer: int) -> None:
        super().__init__()
        self.ln_1 = parts.norm.build(ctx)
        self.attn = SelfAttention(parts, ctx, layer)
        self.ln_2 = parts.norm.build(ctx)
        self.mlp = parts.mlp.build(ctx)

    def forward(self, x: Tensor, position: Positional, view: View, cache: KVCache | None) -> Tensor:
        x = x + self.attn(self.ln_1(x), position, view, cache)  # (B, T, C)
        x = x + self.mlp(self.ln_2(x))
        return x


class SelfAttention(nn.Module):
    """The projections around the attention component."""

    def __init__(self, parts: GPT, ctx: LayerContext, layer: int) -> None:
        super().__init__()
        self.layer = layer  # its index, which identifies it in the cache
        self.heads = [ctx.n_head, ctx.n_kv_head, ctx.n_kv_head]
        self.head_dim = ctx.head_dim
        self.c_attn = nn.Linear(ctx.n_embd, sum(self.heads) * ctx.head_dim, bias=ctx.bias)
        head = dataclasses.replace(ctx, n_embd=ctx.head_dim)  # Henry et al. 2020, arXiv:2010.04245
        self.q_norm = parts.norm.build(head) if parts.qk_norm else nn.Identity()
        self.k_norm = parts.norm.build(head) if parts.qk_norm else nn.Identity()
        self.attention = parts.attention.build(ctx)
        self.c_proj = ResidualLinear(ctx.n_embd, ctx.n_embd, bias=ctx.bias)
        self.drop = nn.Dropout(ctx.dropout)

    def forward(self, x: Tensor, position: Positional, view: View, cache: KVCache | None) -> Tensor:
        heads = self.c_attn(x).view(x.size(0), x.size(1), -1, self.head_dim).transpose(1, 2)  # (B, H + 2 Hkv, T, D)
        q, k, v = heads.split_with_sizes(self.heads, dim=1)  # (B, H or Hkv, T, D)
        q, k = self.q_norm(q).type_as(v), self.k_norm(k).type_as(v)  # autocast computes norms in fp32
        q = position.rotate(q, view.query_positions)
        k = position.rotate(k, view.query_positions)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)  # (B, Hkv, S, D)
        y: Tensor = self.attention(q, k, v, view)  # (B, H, T, D)
        y = self.drop(self.c_proj(y.transpose(1, 2).flatten(2)))  # (B, T, C)
        return y
