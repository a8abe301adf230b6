"""Keeps the k likeliest tokens.

Source: Fan, Lewis & Dauphin 2018, arXiv:1805.04833.
"""

from __future__ import annotations

from torch import Tensor

from nanogpt_kit.api import Field, Sampler


class TopK(Sampler):
    k: int = Field(200, ge=1, description="number of tokens kept; all if the vocabulary is smaller")

    def transform(self, logits: Tensor, tokens: Tensor) -> Tensor:
        least = logits.topk(min(self.k, logits.size(-1))).values[:, -1:]  # (B, 1)
        return logits.masked_fill(logits < least, float("-inf"))  # (B, V)
