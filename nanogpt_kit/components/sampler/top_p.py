"""Nucleus sampling: keeps the fewest tokens, the likeliest first, whose probabilities add up to p.

Source: Holtzman, Buys, Du, Forbes & Choi 2019, arXiv:1904.09751.
"""

from __future__ import annotations

from torch import Tensor

from nanogpt_kit.api import Field, Sampler

LEAST = 1e-38  # float32 would take a smaller p for 0, which no token is needed to reach


class TopP(Sampler):
    p: float = Field(0.95, gt=0, le=1, description="the probability that the tokens kept must reach together")

    def transform(self, logits: Tensor, tokens: Tensor) -> Tensor:
        if self.p == 1:
            return logits  # sums that are rounded reach 1 too early
        probabilities = logits.softmax(dim=-1)  # (B, V)
        # Tokens below an even share of 1 - p are below 1 - p together, so that p is reached without them. Most are as
        # rare as that, and a sort is several times faster where most numbers are equal, here zeros.
        rare = probabilities < (1 - self.p) / logits.size(-1)
        ordered, order = probabilities.masked_fill(rare, 0.0).sort(dim=-1, descending=True, stable=True)
        spare = ordered.cumsum(dim=-1) - ordered >= max(self.p, LEAST)  # those before it reach p already
        return logits.masked_fill(rare | spare.scatter(-1, order, spare), float("-inf"))
