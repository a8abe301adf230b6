"""Attention whose scores are divided by the depth of the layer, counted from 1, so that deep layers attend softly.

Source: Karamcheti et al. 2021, "Mistral: A Journey towards Reproducible Language Model Training"; in Hugging Face's
GPT-2 it is `scale_attn_by_inverse_layer_idx`.
"""

from __future__ import annotations

from torch import Tensor, nn

from nanogpt_kit.api import Attention, LayerContext, View, slot


class InverseLayerScores(Attention):
    attention: Attention = slot("sdpa")

    def build(self, ctx: LayerContext) -> nn.Module:
        return DividedScores(self.attention.build(ctx), ctx.layer + 1)


class DividedScores(nn.Module):
    def __init__(self, attention: nn.Module, divisor: int) -> None:
        super().__init__()
        self.attention = attention
        self.divisor = divisor

    def forward(self, q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
        y: Tensor = self.attention(q / self.divisor, k, v, view)  # (B, H, T, D)
        return y
