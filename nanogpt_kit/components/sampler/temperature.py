"""Divides the logits: below 1 the likely tokens gain, above 1 the unlikely ones; 0 keeps only the likeliest.

Source: Ackley, Hinton & Sejnowski 1985, "A Learning Algorithm for Boltzmann Machines".
"""

from __future__ import annotations

import torch
from torch import Tensor

from nanogpt_kit.api import Field, Sampler

MIN_DIVISOR, MAX_DIVISOR = 1e-38, 1e38  # beyond these float32 rounds to 0 and infinity


class Temperature(Sampler):
    value: float = Field(0.8, ge=0, description="divisor of the logits; 0 is greedy")

    def transform(self, logits: Tensor, tokens: Tensor) -> Tensor:
        if self.value == 0:
            best = logits.argmax(dim=-1, keepdim=True)
            return torch.full_like(logits, float("-inf")).scatter(-1, best, 0.0)
        shifted = logits - logits.amax(dim=-1, keepdim=True)  # the likeliest stays at 0, however small the divisor
        return shifted / min(max(self.value, MIN_DIVISOR), MAX_DIVISOR)  # (B, V)
