"""Mirostat 2.0: keeps the surprise of a text near a target, by a limit on the surprise of each token.

The limit mu starts at twice the target and falls by `rate` times what each drawn token exceeded the target. A token is
possible if its surprise, in bits, is at most mu.

Source: Basu, Ramachandran, Keskar & Varshney 2021, arXiv:2007.14966, algorithm 2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nanogpt_kit.api import Field, MemorySampler


class Mirostat(MemorySampler):
    target: float = Field(5.0, gt=0, description="mean surprise of a token to aim at, in bits")
    rate: float = Field(0.1, ge=0, le=1, description="change of the limit for each bit that a token missed the target")

    def transform_with_memory(self, logits: Tensor, tokens: Tensor, logprobs: Tensor) -> Tensor:
        surprises = logprobs / -math.log(2)  # (B, N) in bits
        limits = 2 * self.target - self.rate * (surprises - self.target).sum(dim=-1, keepdim=True)  # (B, 1) mu
        forbidden = logits.log_softmax(dim=-1) / -math.log(2) > limits  # (B, V)
        forbidden = forbidden & (logits < logits.amax(dim=-1, keepdim=True))  # the likeliest token stays possible
        return torch.where(forbidden, float("-inf"), logits)
