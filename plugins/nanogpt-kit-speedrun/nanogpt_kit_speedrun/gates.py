"""What the parts of the speedrun have in common: gates that read the first features of a token, and its predecessor.

Source: record 28 (features of gates), record 34 (smear) of https://github.com/KellerJordan/modded-nanogpt.
"""

from __future__ import annotations

from torch import Tensor, nn

GATE_FEATURES = 12  # of each token that a gate reads, as in the records; nanochat's smear reads 24


class Gate(nn.Module):
    """(B, T, C) -> (B, T, outputs), each in (0, `most`): half of it while the weight is zero."""

    def __init__(self, n_embd: int, outputs: int, most: float) -> None:
        super().__init__()
        self.most = most
        self.proj = nn.Linear(min(GATE_FEATURES, n_embd), outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.proj(x[..., : self.proj.in_features])
        return self.most * scores.sigmoid()
