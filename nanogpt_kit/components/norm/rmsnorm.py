"""RMSNorm: divide by the root mean square, then apply a learned gain.

Source: Zhang & Sennrich 2019, arXiv:1910.07467.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt_kit.api import Field, LayerContext, Norm


class RMSNorm(Norm):
    eps: float = Field(1e-5, gt=0, description="constant added to the mean square; keeps the root away from zero")
    gain: bool = Field(True, description="learned gain after the division")

    def build(self, ctx: LayerContext) -> nn.Module:
        return RootMeanSquare(ctx.n_embd, eps=self.eps, elementwise_affine=self.gain)


class RootMeanSquare(nn.RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        gain = None if self.weight is None else self.weight.float()
        y = F.rms_norm(
            x.float(), self.normalized_shape, gain, self.eps
        )  # (..., C); CPU autocast would compute it in bf16
        return y.type_as(x)
