"""Nucleus sampling: keeps the smallest set of likeliest tokens whose probabilities add up to p.

Source: Holtzman, Buys, Du, Forbes & Choi 2019, arXiv:1904.09751.
"""

from __future__ import annotations

from torch import Tensor

from nanogpt_kit.api import Field, Sampler

MIN_P = 1e-38  # float32 rounds a smaller p to 0, which is reached without any token


class TopP(Sampler):
    p: float = Field(0.95, gt=0, le=1, description="total probability that the kept tokens must reach")

    def transform(self, logits: Tensor, tokens: Tensor) -> Tensor:
        if self.p == 1:
            return logits  # rounded sums would reach 1 too early
        probabilities = logits.softmax(dim=-1)  # (B, V)
        # Tokens below (1 - p) / V add up to less than 1 - p, so that p is reached without them. Most are as rare as
        # that, and sorting is several times faster where most values are equal, here zeros.
        rare = probabilities < (1 - self.p) / logits.size(-1)
        ordered, order = probabilities.masked_fill(rare, 0.0).sort(dim=-1, descending=True, stable=True)
        spare = ordered.cumsum(dim=-1) - ordered >= max(self.p, MIN_P)  # the tokens before it reach p already
        return logits.masked_fill(rare | spare.scatter(-1, order, spare), float("-inf"))
