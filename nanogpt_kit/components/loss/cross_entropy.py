"""Cross-entropy of the next token. In training, label smoothing and z-loss may be added to it.

Label smoothing trains towards a target distribution that leaves a part of the probability to all tokens alike. Z-loss
keeps the log of the softmax's denominator near 0, and so the logits from drifting. Padding of the vocabulary takes part
in neither.

Source: Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", equation 1; label smoothing:
Szegedy et al. 2015, arXiv:1512.00567, section 7; z-loss: Chowdhery et al. 2022, arXiv:2204.02311, section 5.
"""

from __future__ import annotations

from torch import Tensor, nn

from nanogpt_kit.api import Field, LayerContext, Loss, TrainingLoss, linear_cross_entropy, regularized_cross_entropy


class CrossEntropy(Loss):
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="part of the target probability that is spread evenly over the vocabulary"
    )
    z_loss: float = Field(
        0.0, ge=0, description="coefficient of the squared log of the softmax's denominator; PaLM's is 1e-4"
    )

    def build(self, ctx: LayerContext) -> nn.Module:
        return NextTokenLoss(self)


class NextTokenLoss(nn.Module):
    def __init__(self, options: CrossEntropy) -> None:
        super().__init__()
        self.penalties = {"label_smoothing": options.label_smoothing, "z_loss": options.z_loss}

    def forward(
        self, x: Tensor, weight: Tensor, targets: Tensor, vocab_size: int, softcap: float | None
    ) -> Tensor | TrainingLoss:
        """The fp32 sum of the losses; the arguments are those of `linear_cross_entropy`."""
        if not any(self.penalties.values()):
            return linear_cross_entropy(x, weight, targets, vocab_size, softcap)
        return regularized_cross_entropy(x, weight, targets, vocab_size, softcap, **self.penalties)
