"""Keeps the tokens that are at least p times as likely as the likeliest.

Source: Nguyen et al. 2024, arXiv:2407.01082.
"""

from __future__ import annotations

from torch import Tensor

from nanogpt_kit.api import Field, Sampler


class MinP(Sampler):
    p: float = Field(
        0.05, ge=0, le=1, description="smallest probability that is kept, as a fraction of the likeliest token's"
    )

    def transform(self, logits: Tensor, tokens: Tensor) -> Tensor:
        ratios = (logits - logits.amax(dim=-1, keepdim=True)).exp()  # (B, V), to the likeliest token's probability
        return logits.masked_fill(ratios < self.p, float("-inf"))
