"""Keeps only the likeliest token, the first of equals: the same as temperature 0.

Source: Jurafsky & Martin, "Speech and Language Processing", 3rd edition (draft), "Greedy Decoding".
"""

from __future__ import annotations

import torch
from torch import Tensor

from nanogpt_kit.api import Sampler


class Greedy(Sampler):
    def transform(self, logits: Tensor, tokens: Tensor) -> Tensor:
        best = logits.argmax(dim=-1, keepdim=True)  # (B, 1)
        return torch.full_like(logits, float("-inf")).scatter(-1, best, 0.0)  # (B, V)
