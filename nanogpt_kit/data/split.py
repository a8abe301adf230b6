"""A split of prepared data: its tokens, and where its documents start."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Source:
    """The part of a split that comes from one dataset of several."""

    name: str
    first: int  # the index of its first token in the split
    n_tokens: int
    first_document: int  # the index of its first document in the split
    n_documents: int


@dataclass(frozen=True)
class Split:
    """A document opens with the end-of-text token before it, where there are such tokens, else with its first token.

    So the model learns to predict a document's first token from the end-of-text token, which is also the empty prompt.
    """

    tokens: np.ndarray  # (n_tokens,) memory map
    document_starts: np.ndarray  # (n_documents,) int64 memory map: the index of each first token
    has_eot: bool  # an end-of-text token follows each document
    sources: tuple[Source, ...] = ()  # one after the other; empty where the dataset is one source

    def of_source(self, source: Source) -> Split:
        """The tokens of one source alone, as a split. The starts of its documents are copied, 8 bytes each."""
        tokens = self.tokens[source.first :][: source.n_tokens]
        starts = self.document_starts[source.first_document :][: source.n_documents] - source.first
        return replace(self, tokens=tokens, document_starts=starts, sources=())

    @property
    def by_source(self) -> dict[str, Split]:
        """Each source as a split, by name; under the name "" the split itself where it has no sources."""
        return {source.name: self.of_source(source) for source in self.sources} or {"": self}

    def windows(self, starts: np.ndarray, block_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and targets, each (W, T) int64. A window may reach past the end: targets are -1 there."""
        at = starts[:, None] + np.arange(block_size + 1)  # (W, T + 1)
        last = len(self.tokens) - 1
        tokens = self.tokens[np.minimum(at, last)]
        return tokens[:, :-1].astype(np.int64), np.where(at[:, 1:] <= last, tokens[:, 1:].astype(np.int64), -1)

    def segments(self, starts: np.ndarray, block_size: int) -> np.ndarray:
        """(W, T) int64: for each window the index of the document, within it, that a token belongs to."""
        first = np.searchsorted(
            self.document_starts, starts + self.has_eot, side="right"
        )  # opens after the window's start
        after = np.searchsorted(self.document_starts, starts + self.has_eot + block_size, side="left")
        counts = after - first  # (W,) documents that open within each window
        rows = np.repeat(np.arange(len(starts)), counts)
        which = np.arange(counts.sum()) + np.repeat(first - np.cumsum(counts) + counts, counts)
        opens = np.zeros((len(starts), block_size), dtype=np.int64)
        opens[rows, self.document_starts[which] - self.has_eot - starts[rows]] = 1
        return opens.cumsum(axis=1)

    def move_to_documents(self, starts: np.ndarray, block_size: int) -> np.ndarray:
        """(W,) `starts`, each moved to the first document that opens within its window, if one does."""
        following = np.searchsorted(self.document_starts, starts + self.has_eot, side="left")
        nearest = self.document_starts[np.minimum(following, len(self.document_starts) - 1)] - self.has_eot
        last = len(self.tokens) - 1 - block_size
        moves = (starts > 0) & (nearest >= starts) & (nearest < starts + block_size) & (nearest <= last)
        return np.where(moves, nearest, starts)
