"""A split in memory: its tokens, and where its documents begin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Split:
    """A document opens with the end-of-text token before it, where there are such tokens, else with its first token.

    So the model learns a document's first token from the end-of-text token, which is what an empty prompt is, too.
    """

    tokens: np.ndarray  # (n_tokens,) memory map
    documents: np.ndarray  # (n_documents,) int64 memory map: the first token of each
    has_ends: bool  # whether an end-of-text token follows each document

    def windows(self, starts: np.ndarray, block_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and targets, each (W, T) int64. A window may reach past the end: targets are -1 there."""
        at = starts[:, None] + np.arange(block_size + 1)  # (W, T + 1)
        last = len(self.tokens) - 1
        found = self.tokens[np.minimum(at, last)]
        return found[:, :-1].astype(np.int64), np.where(at[:, 1:] <= last, found[:, 1:].astype(np.int64), -1)

    def segments(self, starts: np.ndarray, block_size: int) -> np.ndarray:
        """(W, T) int64: for each window which of its documents a token belongs to, from 0."""
        first = np.searchsorted(self.documents, starts + self.has_ends, side="right")  # opens after the window's start
        after = np.searchsorted(self.documents, starts + self.has_ends + block_size, side="left")
        counts = after - first  # (W,) documents that open within each window
        rows = np.repeat(np.arange(len(starts)), counts)
        which = np.arange(counts.sum()) + np.repeat(first - np.cumsum(counts) + counts, counts)
        opens = np.zeros((len(starts), block_size), dtype=np.int64)
        opens[rows, self.documents[which] - self.has_ends - starts[rows]] = 1
        return opens.cumsum(axis=1)

    def at_documents(self, starts: np.ndarray, block_size: int) -> np.ndarray:
        """(W,) `starts`, each moved on to the first document that opens within its window, if one does."""
        following = np.searchsorted(self.documents, starts + self.has_ends, side="left")
        nearest = self.documents[np.minimum(following, len(self.documents) - 1)] - self.has_ends
        last = len(self.tokens) - 1 - block_size
        moves = (starts > 0) & (nearest >= starts) & (nearest < starts + block_size) & (nearest <= last)
        return np.where(moves, nearest, starts)
