"""LayerNorm: subtract the mean, divide by the deviation, apply a learned gain and, optionally, a bias.

Source: Ba et al. 2016, arXiv:1607.06450.
"""

from __future__ import annotations

from torch import nn

from nanogpt_kit.api import Field, LayerContext, Norm


class LayerNorm(Norm):
    eps: float = Field(1e-5, gt=0, description="constant added to the variance; keeps the root away from zero")
    bias: bool | None = Field(None, description="learned bias after the gain; omitted: as in the model's bias")

    def build(self, ctx: LayerContext) -> nn.Module:
        return nn.LayerNorm(ctx.n_embd, eps=self.eps, bias=ctx.bias if self.bias is None else self.bias)
