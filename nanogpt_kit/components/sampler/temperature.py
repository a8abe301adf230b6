"""Divides the logits: below 1 the likely tokens gain, above 1 the unlikely ones; 0 leaves only the likeliest.

Source: Ackley, Hinton & Sejnowski 1985, "A Learning Algorithm for Boltzmann Machines".
"""

from __future__ import annotations

import torch
from torch import Tensor

from nanogpt_kit.api import Field, Sampler

LEAST, MOST = 1e-38, 1e38  # float32 would take smaller divisors for 0, larger ones for infinity


class Temperature(Sampler):
    value: float = Field(0.8, ge=0, description="what the logits are divided by; 0 is greedy")

    def transform(self, logits: Tensor, tokens: Tensor) -> Tensor:
        if self.value == 0:
            best = logits.argmax(dim=-1, keepdim=True)
            return torch.full_like(logits, float("-inf")).scatter(-1, best, 0.0)
        shifted = logits - logits.amax(dim=-1, keepdim=True)  # the likeliest stays 0, however small the divisor
        return shifted / min(max(self.value, LEAST), MOST)  # (B, V)
