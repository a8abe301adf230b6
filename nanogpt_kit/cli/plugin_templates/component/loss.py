"""Activation regularization: keeps the features small that the output head takes.

Change `extra`, a sum over the tokens that have a target, or the cross-entropy itself. Source: Merity et al. 2017,
arXiv:1708.02182.
"""

from torch import Tensor, nn

from nanogpt_kit.api import Field, LayerContext, Loss, TrainingLoss, linear_cross_entropy


class ActivationLoss(Loss):
    coefficient: float = Field(0.01, gt=0, description="coefficient of the mean square of a token's features")

    def build(self, ctx: LayerContext) -> nn.Module:
        return ActivationLossModule(self.coefficient)


class ActivationLossModule(nn.Module):
    def __init__(self, coefficient: float) -> None:
        super().__init__()
        self.coefficient = coefficient

    def forward(
        self, x: Tensor, weight: Tensor, targets: Tensor, vocab_size: int, softcap: float | None
    ) -> TrainingLoss:
        loss = linear_cross_entropy(x, weight, targets, vocab_size, softcap)
        squares = x.float().square().mean(dim=-1)  # (B, T)
        extra = self.coefficient * (squares * (targets >= 0)).sum()
        return TrainingLoss(loss + extra, loss.detach(), {"activation": extra.detach()})
