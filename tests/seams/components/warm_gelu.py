"""An MLP whose activation goes from the identity to GELU as `mix` grows: a linear network that becomes a deep one.

`mix` is schedulable, so that a schedule may move it while the network trains.

Source: Hendrycks & Gimpel 2016, arXiv:1606.08415, for GELU.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt_kit.api import MLP, Field, LayerContext, TwoLayerMLP


class WarmGELU(MLP):
    schedulable = ("mix",)
    mix: float = Field(1.0, ge=0, le=1, description="weight of GELU; the rest is the identity")

    def build(self, ctx: LayerContext) -> nn.Module:
        return TwoLayerMLP(ctx, Mixture(self), 4 * ctx.n_embd)


class Mixture(nn.Module):
    def __init__(self, options: WarmGELU) -> None:
        super().__init__()
        self.options = options
        self.mix = options.mix

    def forward(self, x: Tensor) -> Tensor:
        return self.mix * F.gelu(x) + (1 - self.mix) * x
