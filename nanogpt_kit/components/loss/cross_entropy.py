"""Cross-entropy of the next token.

Source: Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", equation 1.
"""

from __future__ import annotations

from torch import Tensor, nn

from nanogpt_kit.api import LayerContext, Loss, TrainingLoss, linear_cross_entropy


class CrossEntropy(Loss):
    def build(self, ctx: LayerContext) -> nn.Module:
        return NextTokenLoss()


class NextTokenLoss(nn.Module):
    def forward(
        self, x: Tensor, weight: Tensor, targets: Tensor, vocab_size: int, softcap: float | None
    ) -> Tensor | TrainingLoss:
        """The fp32 sum of the losses; the arguments are those of `linear_cross_entropy`."""
        return linear_cross_entropy(x, weight, targets, vocab_size, softcap)
