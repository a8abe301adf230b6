"""LayerNorm: subtract the mean, divide by the deviation, apply a learnt gain and, where wanted, a shift.

Source: Ba et al. 2016, arXiv:1607.06450.
"""

from __future__ import annotations

from torch import nn

from nanogpt_kit.api import Field, LayerContext, Norm


class LayerNorm(Norm):
    eps: float = Field(1e-5, gt=0, description="added to the variance; keeps the root away from zero")
    bias: bool | None = Field(None, description="whether there is a shift; left out: as the model's bias says")

    def build(self, ctx: LayerContext) -> nn.Module:
        return nn.LayerNorm(ctx.n_embd, eps=self.eps, bias=ctx.bias if self.bias is None else self.bias)
