"""The model of the speedrun: RoPE, RMSNorm without gains, QK-norm and squared ReLU, and what later records added.

Every part is an option, and so are the components; with all parts off it is the built-in `gpt` with the same
components. Projections that are zero at first (record 5) are `init = "zero_residual"`.

Shapes: B batch, T tokens, C n_embd, V vocabulary.

Source: the records of https://github.com/KellerJordan/modded-nanogpt, which the options name, and the forms in which
https://github.com/karpathy/nanochat uses them at depths of 12 to 26 layers.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from nanogpt_kit.api import (
    MLP,
    Attention,
    Field,
    HeadLinear,
    KVCache,
    Loss,
    MixerContext,
    Model,
    ModelContext,
    Norm,
    Position,
    Positional,
    TrainingLoss,
    View,
    add_extras,
    linear_cross_entropy,
    model_validator,
    option_error,
    slot,
    take_extra,
)
from nanogpt_kit_speedrun.attention import ValueEmbedding
from nanogpt_kit_speedrun.block import SpeedrunBlock
from nanogpt_kit_speedrun.smear import Smear

WITHOUT_GAIN: Any = {"use": "rmsnorm", "gain": False}
BACKOUT_LAMBDA = 0.2  # at first, as in nanochat; 0.5 in record 40


class Speedrun(Model):
    applies_multipliers = True
    n_layer: int = Field(12, ge=1, le=10_000, description="number of transformer blocks")
    n_head: int = Field(6, ge=1, description="attention heads in each block")
    n_kv_head: int | None = Field(
        None, ge=1, description="key and value heads, each used by n_head / n_kv_head query heads; omitted: n_head"
    )
    n_embd: int = Field(768, ge=1, le=2**20, description="features of each token (embedding width)")
    vocab_multiple: int = Field(
        64,
        ge=1,
        le=2**20,
        description="multiple to which the vocabulary is padded (record 5); padding is never sampled",
    )
    weight_tying: bool = Field(
        False, description="one weight for the token embedding and the output head (untied: record 8)"
    )
    embedding_norm: bool = Field(True, description="normalization of the token embeddings (record 8)")
    qk_norm: bool = Field(True, description="normalization of each head's queries and keys (record 5)")
    logit_softcap: float = Field(
        15.0, ge=0, description="soft cap: logits are squashed into ± this; 0: none (record 9; 15 since record 18)"
    )
    residual_lambdas: bool = Field(True, description="learned factor on the input of each block (record 9)")
    x0_lambdas: bool = Field(True, description="embeddings added to the input of each block, with a factor (record 9)")
    value_embeddings: Literal["gated", "plain", "none"] = Field(
        "gated",
        description="embeddings added to the values of every second layer and the last (record 14; gates: 55)",
    )
    smear: bool = Field(True, description="gated embedding of the previous token added to each one (record 34)")
    backout: bool = Field(
        True,
        description="features after half of the blocks subtracted, with a factor, before the last norm (record 40)",
    )
    window_pattern: str = Field(
        "SSSL",
        min_length=1,
        description="short and long attention, repeated over the layers; the last layer is long (record 20)",
    )
    short_window: int = Field(
        256, ge=1, le=2**27, description="positions that short attention attends to, its own included"
    )
    attention: Attention = slot("sdpa")
    position: Position = slot("rope")
    norm: Norm = slot(WITHOUT_GAIN)
    mlp: MLP = slot("relu2")
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
    def _attention_has_windows(self) -> Self:
        if set(self.window_pattern) - {"S", "L"}:
            message = f"{self.window_pattern!r} should consist of S, for short, and L, for long, as in 'SSSL'"
            raise option_error("window_pattern", message)
        if "window" not in type(self.attention).model_fields and any(map(self.is_short, range(self.n_layer))):
            name = type(self.attention).__name__
            short = f"window_pattern {self.window_pattern!r} has short windows, and {name} has no option window"
            message = f"{short}; set window_pattern = 'L', or use another attention"
            raise option_error("window_pattern", message, "attention")
        return self

    @property
    def relative(self) -> bool:  # type: ignore[override]
        return self.position.relative

    def is_short(self, layer: int) -> bool:
        return layer < self.n_layer - 1 and self.window_pattern[layer % len(self.window_pattern)] == "S"

    def value_embedding(self, ctx: MixerContext, rows: int) -> ValueEmbedding | None:
        """That of a layer, for `rows` tokens, where it has one: as in nanochat, each second layer and the last."""
        if self.value_embeddings == "none" or (self.n_layer - 1 - ctx.layer) % 2:
            return None
        return ValueEmbedding(ctx, rows, gated=self.value_embeddings == "gated")

    def layer_context(self, layer: int, ctx: ModelContext) -> MixerContext:
        attention = self.attention
        if self.is_short(layer):
            attention = attention.model_copy(update={"window": self.short_window})
        return MixerContext(
            n_embd=self.n_embd,
            n_head=self.n_head,
            n_kv_head=self.n_kv_head or self.n_head,
            head_dim=self.n_embd // self.n_head,
            n_layer=self.n_layer,
            block_size=self.block_size,
            dropout=0.0,
            bias=False,
            layer=layer,
            norm=self.norm,
            attention=attention,
            qk_norm=self.qk_norm,
            query_multiplier=ctx.multipliers.queries,
        )

    def build(self, ctx: ModelContext) -> nn.Module:
        return SpeedrunTransformer(self, ctx)


class SpeedrunTransformer(nn.Module):
    def __init__(self, parts: Speedrun, model: ModelContext) -> None:
        super().__init__()
        layers = [parts.layer_context(layer, model) for layer in range(parts.n_layer)]
        first, last = layers[0], layers[-1]
        rows = -(-model.vocab_size // parts.vocab_multiple) * parts.vocab_multiple  # rounded up
        self.block_size = parts.block_size
        self.vocab_size = model.vocab_size
        self.logit_softcap = parts.logit_softcap or None
        self.multipliers = model.multipliers
        self.wte = nn.Embedding(rows, parts.n_embd)
        self.embedding_norm = parts.norm.build(first) if parts.embedding_norm else nn.Identity()
        self.smear = Smear(parts.n_embd) if parts.smear else None
        position = parts.position.build(first)
        assert isinstance(position, Positional), f"position builds a {type(position).__name__}, not an api.Positional"
        self.position = position
        self.residual_lambdas = nn.Parameter(torch.ones(parts.n_layer)) if parts.residual_lambdas else None
        self.x0_lambdas = nn.Parameter(torch.zeros(parts.n_layer)) if parts.x0_lambdas else None
        self.h = nn.ModuleList(SpeedrunBlock(ctx, parts.mlp, parts.value_embedding(ctx, rows)) for ctx in layers)
        self.backout_lambda = nn.Parameter(torch.full((1,), BACKOUT_LAMBDA)) if parts.backout else None
        self.ln_f = parts.norm.build(last)
        self.loss = parts.loss.build(first)
        self.lm_head = HeadLinear(parts.n_embd, rows, bias=False)
        if parts.weight_tying:
            self.lm_head.weight = self.wte.weight

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
        cap = self.logit_softcap
        if targets is None:
            logits: Tensor = self.lm_head(x)[..., : self.vocab_size]  # (B, T, V), without the padding
            return logits if cap is None else cap * torch.tanh(logits / cap)
        head = self.lm_head.weight, targets, self.vocab_size, cap
        return add_extras(self.loss(x, *head), extras) if self.training else linear_cross_entropy(x, *head)

    def features(self, ids: Tensor, view: View, cache: KVCache | None, extras: dict[str, Tensor]) -> Tensor:
        """The features of ids (B, T) after the blocks, before the last norm: (B, T, C)."""
        x = take_extra(extras, "norm", self.embedding_norm(self.wte(ids)))  # (B, T, C)
        if self.multipliers.embeddings != 1:
            x = x * self.multipliers.embeddings
        if self.smear is not None:
            x = self.smear(x, view, cache)
        x = x0 = middle = self.position.embed(x, view.query_positions)
        view = view.with_slopes(self.position.slopes())
        for layer, block in enumerate(self.h):
            if layer == len(self.h) // 2:
                middle = x
            if self.residual_lambdas is not None:
                x = self.residual_lambdas[layer] * x
            if self.x0_lambdas is not None:
                x = x + self.x0_lambdas[layer] * x0
            x = take_extra(extras, "block", block(x, ids, self.position, view, cache))
        if self.backout_lambda is not None:
            x = x - self.backout_lambda * middle
        if cache is not None:
            cache.advance(ids.size(1))
        return x

    def view(self, ids: Tensor, cache: KVCache | None, segments: Tensor | None) -> View:
        """The view of these tokens, the same for all blocks."""
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
        self.position.crop(block_size)
