"""The view: which positions attend to which, described by positions instead of masks."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class View:
    """Made once for each forward pass and used by all layers: a query attends to keys of its segment up to itself.

    Positions avoid the ambiguity of a causal flag when T differs from S: torch's `is_causal=True` with T = 1 and
    S = 5 attends to key 0 only.
    """

    query_positions: Tensor  # (1 or B, T)
    key_positions: Tensor  # (1 or B, S); a negative position marks a column without a key
    causal_square: bool  # plain causal self-attention over T = S tokens of one segment: kernels may use a fast path
    query_segments: Tensor | None = None  # (1 or B, T), of documents for example; both or neither
    key_segments: Tensor | None = None  # (1 or B, S)
    slopes: Tensor | None = None  # (H,): what each head's scores lose with each position of distance (ALiBi)
    unmasked: bool = False  # every query attends to every key, windows aside, so that no mask is needed
    padding: Tensor | None = None  # (B, T) bool: True where a query is not part of its text; None: nowhere
    results: list[tuple[Hashable, Any]] = field(default_factory=list, repr=False)  # of `cached`, with their keys

    def __post_init__(self) -> None:
        both = (self.query_segments is None) == (self.key_segments is None)
        assert both, "segments are given for queries and keys, or for neither"

    @classmethod
    def causal(cls, positions: Tensor, segments: Tensor | None = None, slopes: Tensor | None = None) -> View:
        """Self-attention over `positions` (1, T), counted up from 0."""
        return cls(positions, positions, segments is None, segments, segments, slopes)

    def with_slopes(self, slopes: Tensor | None) -> View:
        """The view with the slopes of a layer's positions; without slopes this one, whose masks layers share."""
        return self if slopes is None else replace(self, slopes=slopes, results=[])

    def cached(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """A value derived from the view: made in the first layer that needs `key`, and reused in the others."""
        for known, value in self.results:  # few; a dict would make the compiler treat a window as a constant
            if known == key:
                return value
        value = make()
        self.results.append((key, value))
        return value

    def mask(self, window: int | None = None) -> Tensor:
        """(1 or B, 1, T, S) bool: True where the query attends to the key, within the last `window` positions."""

        def make() -> Tensor:
            queries, keys = self.query_positions[:, None, :, None], self.key_positions[:, None, None, :]
            attends = torch.logical_and(keys <= queries, keys >= 0)
            if window is not None:
                attends = attends & (queries - keys < window)
            if self.query_segments is not None and self.key_segments is not None:
                attends = attends & (self.query_segments[:, None, :, None] == self.key_segments[:, None, None, :])
            return attends

        mask: Tensor = self.cached(("mask", window), make)
        return mask

    def penalty(self) -> Tensor:
        """(1 or B, H, T, S) fp32: what ALiBi adds to the scores, zero at the query's own position."""
        assert self.slopes is not None, "only a view with slopes has a penalty"
        slopes = self.slopes.float()

        def make() -> Tensor:
            distance = self.key_positions[:, None, None, :] - self.query_positions[:, None, :, None]
            return distance * slopes[:, None, None]

        penalty: Tensor = self.cached("penalty", make)
        return penalty
