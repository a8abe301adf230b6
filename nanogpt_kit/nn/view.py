"""Who may see whom, told in positions rather than in masks."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class View:
    """One for each forward pass, shared by all layers. A query sees the keys of its own segment at and before it.

    Positions avoid the ambiguity of a causal flag when T differs from S: torch's `is_causal=True` with T = 1 and
    S = 5 sees key 0 only.
    """

    query_positions: Tensor  # (1 or B, T)
    key_positions: Tensor  # (1 or B, S); a negative one is no key
    causal_square: bool  # plain causal self-attention over T = S tokens of one segment: kernels may take a short cut
    query_segments: Tensor | None = None  # (1 or B, T), of documents, say; both or neither
    key_segments: Tensor | None = None  # (1 or B, S)
    slopes: Tensor | None = None  # (H,): how much each head minds distance (ALiBi)
    all_seen: bool = False  # but for windows, every query sees every key, so that no mask is needed
    lowered: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        both = (self.query_segments is None) == (self.key_segments is None)
        assert both, "segments are of queries and keys, or of neither"

    @classmethod
    def causal(cls, positions: Tensor, segments: Tensor | None = None, slopes: Tensor | None = None) -> View:
        """Self-attention over `positions` (1, T), counted up from 0."""
        return cls(positions, positions, segments is None, segments, segments, slopes)

    def once(self, key: Hashable, lower: Callable[[], Any]) -> Any:
        """What a kernel makes of the view: made by the first layer that asks for `key`, shared with the others."""
        if key not in self.lowered:
            self.lowered[key] = lower()
        return self.lowered[key]

    def mask(self, window: int | None = None) -> Tensor:
        """(1 or B, 1, T, S) bool: True where the query may see the key, the last `window` positions at most."""

        def lower() -> Tensor:
            queries, keys = self.query_positions[:, None, :, None], self.key_positions[:, None, None, :]
            seen = torch.logical_and(keys <= queries, keys >= 0)
            if window is not None:
                seen = seen & (queries - keys < window)
            if self.query_segments is not None and self.key_segments is not None:
                seen = seen & (self.query_segments[:, None, :, None] == self.key_segments[:, None, None, :])
            return seen

        mask: Tensor = self.once(("mask", window), lower)
        return mask

    def penalty(self) -> Tensor:
        """(1 or B, H, T, S) fp32: what ALiBi adds to the scores, zero at the query's own position."""
        assert self.slopes is not None, "only a view with slopes has a penalty"
        slopes = self.slopes.float()

        def lower() -> Tensor:
            distance = self.key_positions[:, None, None, :] - self.query_positions[:, None, :, None]
            return distance * slopes[:, None, None]

        penalty: Tensor = self.once("penalty", lower)
        return penalty
