"""Keeps the tokens that are at least p times as likely as the likeliest.

Source: Nguyen et al. 2024, arXiv:2407.01082.
"""

from __future__ import annotations

from torch import Tensor

from nanogpt_kit.api import Field, Sampler


class MinP(Sampler):
    p: float = Field(0.05, ge=0, le=1, description="the least likelihood that is kept, in shares of the likeliest's")

    def transform(self, logits: Tensor, tokens: Tensor) -> Tensor:
        shares = (logits - logits.amax(dim=-1, keepdim=True)).exp()  # (B, V), of the likeliest token's probability
        return logits.masked_fill(shares < self.p, float("-inf"))
