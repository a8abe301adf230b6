"""Who may see whom, told in positions rather than in masks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class View:
    """One for each forward pass, shared by all layers. A query sees the keys at its own position and before it.

    Positions avoid the ambiguity of a causal flag when T differs from S: torch's `is_causal=True` with T = 1 and
    S = 5 sees key 0 only.
    """

    query_positions: Tensor  # (1 or B, T)
    key_positions: Tensor  # (1 or B, S); a negative one is no key
    causal_square: bool  # plain causal self-attention over T = S tokens: kernels may take their short cut

    @classmethod
    def causal(cls, positions: Tensor) -> View:
        """Self-attention over `positions` (1, T), counted up from 0."""
        return cls(positions, positions, causal_square=True)

    @cached_property
    def mask(self) -> Tensor:
        """(1 or B, 1, T, S) bool: True where the query may see the key. Lowered once, then shared by the layers."""
        queries, keys = self.query_positions[:, None, :, None], self.key_positions[:, None, None, :]
        return torch.logical_and(keys <= queries, keys >= 0)
