"""A two-layer MLP with a tanh activation.

Change the activation, or return another module from `build`: it maps (B, T, C) to (B, T, C). Source: the activation of
Elman 1990, "Finding Structure in Time", in the MLP of GPT-2.
"""

from torch import nn

from nanogpt_kit.api import MLP, Field, LayerContext, TwoLayerMLP


class TanhMLP(MLP):
    width: float = Field(4.0, gt=0, description="features inside, as a multiple of n_embd")

    def build(self, ctx: LayerContext) -> nn.Module:
        return TwoLayerMLP(ctx, nn.Tanh(), max(1, int(self.width * ctx.n_embd)))
