"""Smear: some of the previous token's embedding is added to that of each token.

Source: record 34 of https://github.com/KellerJordan/modded-nanogpt, which smears before the norm of the embedding;
after it, as here, in https://github.com/karpathy/nanochat.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nanogpt_kit.api import KVCache, View
from nanogpt_kit_speedrun.gates import Gate


class Smear(nn.Module):
    """x + smear_lambda * gate(x) * (x of the previous token), where that is in the same text and document."""

    def __init__(self, n_embd: int) -> None:
        super().__init__()
        self.gate = Gate(n_embd, 1, most=1.0)
        self.smear_lambda = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, view: View, cache: KVCache | None) -> Tensor:
        """(B, T, C) of token embeddings to the same shape; the cache keeps the last one."""
        if view.padding is not None:
            x = x.masked_fill(view.padding[..., None], 0.0)  # the first token of a text has no previous one
        last = torch.zeros_like(x[:, 0])  # (B, C)
        if cache is not None:
            last = cache.state(0, last, "smear")
            cache.set_state(0, x[:, -1], "smear")
        previous = torch.cat([last[:, None], x[:, :-1]], dim=1)  # (B, T, C)
        segments = view.query_segments
        if segments is not None:
            starts = segments[:, 1:] != segments[:, :-1]  # (1 or B, T - 1): a document begins
            previous = torch.cat([previous[:, :1], previous[:, 1:].masked_fill(starts[..., None], 0.0)], dim=1)
        amounts: Tensor = self.smear_lambda * self.gate(x)  # (B, T, 1)
        return x + amounts * previous
