"""A block of the speedrun: attention with value embeddings and an MLP, each behind a norm and beside the residual."""

from __future__ import annotations

from torch import Tensor, nn

from nanogpt_kit.api import MLP, KVCache, MixerContext, Positional, View, take_extra
from nanogpt_kit_speedrun.attention import ValueAttention, ValueEmbedding


class SpeedrunBlock(nn.Module):
    def __init__(self, ctx: MixerContext, mlp: MLP, values: ValueEmbedding | None) -> None:
        super().__init__()
        self.ln_1 = ctx.norm.build(ctx)
        self.attn = ValueAttention(ctx, values)
        self.ln_2 = ctx.norm.build(ctx)
        self.mlp = mlp.build(ctx)

    def forward(
        self, x: Tensor, ids: Tensor, position: Positional, view: View, cache: KVCache | None
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        extras: dict[str, Tensor] = {}
        features = take_extra(extras, "norm", self.ln_1(x))
        x = x + take_extra(extras, "mixer", self.attn(features, ids, position, view, cache))  # (B, T, C)
        features = take_extra(extras, "norm", self.ln_2(x))
        x = x + take_extra(extras, "mlp", self.mlp(features))
        return (x, extras) if extras else x
