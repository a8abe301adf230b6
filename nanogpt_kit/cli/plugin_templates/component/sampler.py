"""Locally typical sampling: keeps the tokens whose surprise is nearest to the expected one.

Change which tokens are forbidden, which is a logit of minus infinity. Source: Meister et al. 2022, arXiv:2202.00666.
"""

import torch

from nanogpt_kit.api import Field, Sampler


class LocallyTypical(Sampler):
    mass: float = Field(0.9, gt=0, le=1, description="least probability of all tokens that are kept")

    def transform(self, logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        log_p = logits.log_softmax(dim=-1)  # (B, V)
        p = log_p.exp()
        entropy = -torch.where(p > 0, p * log_p, 0.0).sum(dim=-1, keepdim=True)  # (B, 1)
        nearest = (-log_p - entropy).abs().argsort(dim=-1, stable=True)
        p = p.gather(1, nearest)
        before = p.cumsum(dim=-1) - p  # probability of the tokens that are nearer
        forbidden = torch.zeros_like(p, dtype=torch.bool).scatter(1, nearest, before >= self.mass)
        return logits.masked_fill(forbidden, float("-inf"))
