"""Attention by the squared scores instead of their exponentials.

Change how `weights` follow from `scores`, and set `computed_function = "softmax"` in the component where they are those
of a plain softmax. Source: squares in place of exponentials are the degree-2 case of Kacham et al. 2023,
arXiv:2310.01655.
"""

from torch import Tensor, nn

from nanogpt_kit.api import Attention, Field, LayerContext, View


class SquaredAttention(Attention):
    eps: float = Field(1e-6, gt=0, description="constant added to each squared score, so that no weight is zero")

    def build(self, ctx: LayerContext) -> nn.Module:
        return SquaredAttentionModule(ctx.dropout, self.eps)


class SquaredAttentionModule(nn.Module):
    def __init__(self, dropout: float, eps: float) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.eps = eps

    def forward(self, q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
        groups = q.size(1) // k.size(1)
        k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))  # (B, H, S, D)
        scores = (q @ k.transpose(-2, -1)).float().square() + self.eps  # (B, H, T, S)
        weights = scores.masked_fill(~view.mask(), 0.0)
        weights = weights / weights.sum(dim=-1, keepdim=True).clamp(min=self.eps)
        y: Tensor = self.drop(weights).type_as(v) @ v  # (B, H, T, D)
        return y
