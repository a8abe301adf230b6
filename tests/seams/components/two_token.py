"""Two-token prediction: in training, the features of each position also predict the token after the next.

A small residual network turns the features that predict the next token into those that predict the one after it; both
go through the model's own output head. Where either target of the two is ignored, the second prediction is left out.

Source: Gloeckle et al. 2024, arXiv:2404.19737, with n = 2. There a transformer layer takes the place of the small
network, for each of the two predictions.
"""

from __future__ import annotations

from torch import Tensor, nn

from nanogpt_kit.api import Field, LayerContext, Loss, ResidualLinear, TrainingLoss, linear_cross_entropy

IGNORED = -1


class TwoToken(Loss):
    coefficient: float = Field(1.0, gt=0, description="weight of the second token's loss")

    def build(self, ctx: LayerContext) -> nn.Module:
        return TwoTokenLoss(ctx, self.coefficient)


class TwoTokenLoss(nn.Module):
    def __init__(self, ctx: LayerContext, coefficient: float) -> None:
        super().__init__()
        self.coefficient = coefficient
        self.c_fc = nn.Linear(ctx.n_embd, ctx.n_embd, bias=ctx.bias)
        self.activation = nn.GELU()
        self.c_proj = ResidualLinear(ctx.n_embd, ctx.n_embd, bias=ctx.bias)

    def forward(
        self, x: Tensor, weight: Tensor, targets: Tensor, vocab_size: int, softcap: float | None
    ) -> TrainingLoss:
        loss = linear_cross_entropy(x, weight, targets, vocab_size, softcap)
        x, after_next = x[:, :-1], targets[:, 1:].masked_fill(targets[:, :-1] == IGNORED, IGNORED)  # (B, T - 1)
        x = x + self.c_proj(self.activation(self.c_fc(x)))  # (B, T - 1, C)
        extra = self.coefficient * linear_cross_entropy(x, weight, after_next, vocab_size, softcap)
        return TrainingLoss(loss + extra, loss.detach(), {"token_2": extra.detach()})
