"""L2 normalization without a gain: features are divided by their root mean square.

Change `build`: the module maps (..., C) to (..., C). Source: Zhang & Sennrich 2019, arXiv:1910.07467, without the gain.
"""

from torch import nn

from nanogpt_kit.api import Field, LayerContext, Norm


class L2Norm(Norm):
    eps: float = Field(1e-6, gt=0, description="constant added to the mean square, so that zeros stay zeros")

    def build(self, ctx: LayerContext) -> nn.Module:
        return nn.RMSNorm(ctx.n_embd, eps=self.eps, elementwise_affine=False)
