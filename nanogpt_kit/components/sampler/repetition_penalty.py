"""Makes tokens that have occurred less likely: positive logits are divided, negative ones multiplied.

Source: Keskar, McCann, Varshney, Xiong & Socher 2019, arXiv:1909.05858, section 4.1, which divides all of them; that
would make the negative ones likelier.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nanogpt_kit.api import Field, Sampler


class RepetitionPenalty(Sampler):
    penalty: float = Field(
        1.1, gt=0, description="divisor for logits of tokens that occurred: above 1 less likely, below 1 more likely"
    )

    def transform(self, logits: Tensor, tokens: Tensor) -> Tensor:
        B, V = logits.shape
        occurred = torch.zeros(B, 1 + V, dtype=torch.bool, device=logits.device)  # column 0 is for padding's -1
        occurred = occurred.scatter(1, tokens + 1, True)[:, 1:]  # (B, V)
        penalised = torch.where(logits > 0, logits / self.penalty, logits * self.penalty).nan_to_num()
        # nan_to_num turns overflow into float32's largest number: infinity would forbid the token, or become NaN.
        return torch.where(occurred & (logits > float("-inf")), penalised, logits)
