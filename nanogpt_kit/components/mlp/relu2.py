"""The two-layer MLP with a squared ReLU between.

Source: So et al. 2021, arXiv:2109.08668.
"""

from __future__ import annotations

from torch import Tensor, nn

from nanogpt_kit.api import MLP, Field, LayerContext, TwoLayerMLP


class ReLU2(MLP):
    width: float = Field(4.0, gt=0, description="inner features, as a multiple of n_embd")

    def build(self, ctx: LayerContext) -> nn.Module:
        return TwoLayerMLP(ctx, SquaredReLU(), round(self.width * ctx.n_embd))


class SquaredReLU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.relu().square()
