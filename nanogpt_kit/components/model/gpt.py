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
    Layered,
    Loss,
    Mixer,
    MixerContext,
    Model,
    ModelContext,
    Norm,
    Position,
    Positional,
    RunContext,
    TrainingLoss,
    View,
    add_extras,
    check_mixer_options,
    linear_cross_entropy,
    listed,
    model_validator,
    of_layer,
    option_error,
    slot,
    take_extra,
)


class GPT(Model):
    applies_multipliers = True
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
    bf16_residual: bool = Field(
        False, description="residual stream in bf16 from the embedding to the last norm, in a run in bf16"
    )
    vocab_multiple: int = Field(
        64,
        ge=1,
        le=2**20,
        description="multiple to which the vocabulary is padded, for fast matrix products; padding is never sampled",
    )
    mixer: Layered[Mixer] = slot("softmax")
    attention: Layered[Attention] = slot("sdpa")  # None where no mixer uses it
    position: Layered[Position] = slot("learned")
    norm: Layered[Norm] = slot("layernorm")
    mlp: Layered[MLP] = slot("gelu")
    loss: Loss = slot("cross_entropy")

    @model_validator(mode="after")
    def _heads_share_the_features(self) -> Self:
        if self.n_embd % self.n_head:
            message = f"n_embd ({self.n_embd}) should be a multiple of n_head ({self.n_head})"
            raise option_error("n_embd", message, "n_head")
        if self.n_kv_head and self.n_head % self.n_kv_head:
            message = f"n_head ({self.n_head}) should be a multiple of n_kv_head ({self.n_kv_head})"
            raise option_error("n_kv_head", message, "n_head")
        return self

    @model_validator(mode="after")
    def _mixers_use_what_is_set(self) -> Self:
        check_mixer_options(self)
        return self

    def refusal_reason(self, ctx: RunContext) -> str | None:
        if self.bf16_residual and ctx.precision != "bf16":
            remedy = 'set train.precision = "bf16", or leave it out'
            return f"bf16_residual requires a run in bf16, and this one computes in {ctx.precision}; {remedy}"
        return None

    @property
    def relative(self) -> bool:  # type: ignore[override]
        return all(position.relative for position in listed(self.position))

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
        return Transformer(self, layer, ctx)


class Transformer(nn.Module):
    def __init__(self, parts: GPT, ctx: LayerContext, model: ModelContext) -> None:
        super().__init__()
        self.block_size = ctx.block_size
        self.vocab_size = model.vocab_size
        self.logit_softcap = parts.logit_softcap
        self.bf16_residual = parts.bf16_residual
        self.multipliers = model.multipliers
        rows = -(-self.vocab_size // parts.vocab_multiple) * parts.vocab_multiple  # rounded up
        self.wte = nn.Embedding(rows, ctx.n_embd)
        self.positions: list[str] = []  # names of its modules, one for each component: position, position1, ...
        for index, position in enumerate(listed(parts.position)):
            module = position.build(dataclasses.replace(ctx, layer=index))
            assert isinstance(module, Positional), f"position builds a {type(module).__name__}, not an api.Positional"
            self.positions.append(f"position{index or ''}")
            self.add_module(self.positions[-1], module)
        self.drop = nn.Dropout(ctx.dropout)
        layers = [dataclasses.replace(ctx, layer=layer) for layer in range(ctx.n_layer)]
        self.h = nn.ModuleList(Block(parts, layer, model.multipliers.queries) for layer in layers)
        self.ln_f = of_layer(parts.norm, ctx.n_layer - 1).build(layers[-1])
        self.loss = parts.loss.build(ctx)
        self.lm_head = HeadLinear(ctx.n_embd, rows, bias=False)
        if parts.weight_tying:
            self.lm_head.weight = self.wte.weight  # Press & Wolf 2017, arXiv:1608.05859

    def forward(
        self,
        ids: Tensor,
        targets: Tensor | None = None,
        cache: KVCache | None = None,
        segments: Tensor | None = None,
    ) -> Tensor | TrainingLoss:
        """Logits (B, T, V); or, given targets (B, T), the fp32 sum of the losses of all that are not -1.

        With a cache, `ids` follow the tokens in it, and the logits may be those of the newest token alone. Given
        segments (B, T), tokens attend to those of their own segment only.
        """
        extras: dict[str, Tensor] = {}  # auxiliary losses of the parts, by name
        x = self.features(ids, self.view(ids, cache, segments), cache, extras)  # (B, T, C)
        if cache is not None and cache.newest_only and targets is None:
            x = x[:, -1:]  # (B, 1, C)
        x = take_extra(extras, "norm", self.ln_f(x))
        if self.multipliers.logits != 1:
            x = x * self.multipliers.logits
        if targets is None:
            logits: Tensor = self.lm_head(x)[..., : self.vocab_size]  # (B, T, V), without the padding
            return (
                logits if self.logit_softcap is None else self.logit_softcap * torch.tanh(logits / self.logit_softcap)
            )
        head = self.lm_head.weight, targets, self.vocab_size, self.logit_softcap
        return add_extras(self.loss(x, *head), extras) if self.training else linear_cross_entropy(x, *head)

    def features(self, ids: Tensor, view: View, cache: KVCache | None, extras: dict[str, Tensor]) -> Tensor:
        """The features of ids (B, T) after the blocks, before the last norm: (B, T, C)."""
        x: Tensor = self.wte(ids)  # (B, T, C)
        if self.multipliers.embeddings != 1:
            x = x * self.multipliers.embeddings
        positions: list[Positional] = [getattr(self, name) for name in self.positions]
        for position in positions:
            x = position.embed(x, view.query_positions)
        x = self.drop(x)
        is_short = self.bf16_residual and computes_in_bf16(x)
        x = x.bfloat16() if is_short else x
        views = [view.with_slopes(position.slopes()) for position in positions]
        for layer, block in enumerate(self.h):
            index = layer % len(positions)
            x = take_extra(extras, "block", block(x, positions[index], views[index], cache))
            x = x.bfloat16() if is_short else x  # a mixer may return fp32
        if cache is not None:
            cache.advance(ids.size(1))
        return x

    def view(self, ids: Tensor, cache: KVCache | None, segments: Tensor | None) -> View:
        """The view of these tokens, the same for all blocks except the slopes of their positions."""
        T = ids.size(1)
        length = T if cache is None else cache.visible_length(T)
        assert length <= self.block_size, f"{length} tokens do not fit a block_size of {self.block_size}"
        if cache is not None:
            return cache.view(T, ids.device)
        return View.causal(torch.arange(T, device=ids.device)[None], segments)

    def crop(self, block_size: int) -> None:
        """Shortens the context in place, for training on shorter windows."""
        assert block_size <= self.block_size, f"a block_size of {self.block_size} cannot grow to {block_size}"
        self.block_size = block_size
        for name in self.positions:
            getattr(self, name).crop(block_size)


def computes_in_bf16(x: Tensor) -> bool:
    """Whether matrix products of x are computed in bf16, by autocast."""
    device = x.device.type
    return not x.is_meta and torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16


class Block(nn.Module):
    def __init__(self, parts: GPT, ctx: LayerContext, query_multiplier: float) -> None:
        super().__init__()
        norm, mixer = of_layer(parts.norm, ctx.layer), of_layer(parts.mixer, ctx.layer)
        self.ln_1 = norm.build(ctx)
        self.attn = mixer.build(
            MixerContext(
                **vars(ctx),
                norm=norm,
                attention=of_layer(parts.attention, ctx.layer),
                qk_norm=parts.qk_norm,
                query_multiplier=query_multiplier,
            )
        )
        self.ln_2 = norm.build(ctx)
        self.mlp = of_layer(parts.mlp, ctx.layer).build(ctx)

    def forward(
        self, x: Tensor, position: Positional, view: View, cache: KVCache | None
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        extras: dict[str, Tensor] = {}
        features = take_extra(extras, "norm", self.ln_1(x))
        x = x + take_extra(extras, "mixer", self.attn(features, position, view, cache))  # (B, T, C)
        features = take_extra(extras, "norm", self.ln_2(x))
        x = x + take_extra(extras, "mlp", self.mlp(features))
        return (x, extras) if extras else x
