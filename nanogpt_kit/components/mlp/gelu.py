"""The two-layer MLP of GPT-2, four times as wide inside, with GELU between.

Source: Hendrycks & Gimpel 2016, arXiv:1606.08415.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from nanogpt_kit.api import MLP, Field, LayerContext, TwoLayerMLP


class GELU(MLP):
    approximate: Literal["none", "tanh"] = Field(
        "none", description="approximation of GELU; tanh is the one of OpenAI's GPT-2"
    )
    width: float = Field(4.0, gt=0, description="inner features, as a multiple of n_embd")

    def build(self, ctx: LayerContext) -> nn.Module:
        return TwoLayerMLP(ctx, nn.GELU(self.approximate), round(self.width * ctx.n_embd))
