"""A split of prepared data: its tokens, and where its documents start."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

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
    counted: np.ndarray | None = None  # (2 * runs,) int64 memory map: the edges of the tokens that count; None: all do

    def of_source(self, source: Source) -> Split:
        """The tokens of one source alone, as a split. The starts of its documents are copied, 8 bytes each."""
        tokens = self.tokens[source.first :][: source.n_tokens]
        starts = self.document_starts[source.first_document :][: source.n_documents] - source.first
        counted = None if self.counted is None else edges_within(self.counted, source.first, source.n_tokens)
        return replace(self, tokens=tokens, document_starts=starts, sources=(), counted=counted)

    @property
    def by_source(self) -> dict[str, Split]:
        """Each source as a split, by name; under the name "" the split itself where it has no sources."""
        return {source.name: self.of_source(source) for source in self.sources} or {"": self}

    def windows(self, starts: np.ndarray, block_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and targets, each (W, T) int64. A window may reach past the end: targets are -1 there."""
        at = starts[:, None] + np.arange(block_size + 1)  # (W, T + 1)
        tokens = self.tokens[np.minimum(at, len(self.tokens) - 1)]
        return tokens[:, :-1].astype(np.int64), np.where(self.counts(at[:, 1:]), tokens[:, 1:].astype(np.int64), -1)

    def counts(self, at: np.ndarray) -> np.ndarray:
        """Whether the token at each index counts as a target; none does past the end."""
        inside = at < len(self.tokens) if self.counted is None else np.searchsorted(self.counted, at, "right") % 2 == 1
        return np.asarray(inside)

    def count_targets(self, starts: np.ndarray, length: int | np.ndarray) -> np.ndarray:
        """How many of the `length` targets from each start on count; the first target is the token after the start.

        All arrays have one shape. Few numbers are read, so that each rank counts those of all.
        """
        first = starts + 1
        end = np.minimum(first + length, len(self.tokens))
        return np.asarray(end - first if self.counted is None else self._before(end) - self._before(first))

    def _before(self, index: np.ndarray) -> np.ndarray:
        """(W,) how many tokens with a lower index count."""
        assert self.counted is not None, "without edges every token counts"
        edges = np.searchsorted(self.counted, index, "right")
        run = np.minimum(edges // 2, len(self.counted) // 2 - 1)  # the one that the index is in, where `edges` is odd
        return self._counted_in_runs[edges // 2] + np.where(edges % 2, index - self.counted[2 * run], 0)

    @cached_property
    def _counted_in_runs(self) -> np.ndarray:
        """(runs + 1,) how many tokens count in the runs before each."""
        assert self.counted is not None, "without edges every token counts"
        return np.concatenate([[0], np.cumsum(self.counted[1::2] - self.counted[::2])])

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


def edges_within(edges: np.ndarray, first: int, n_tokens: int) -> np.ndarray:
    """The edges of the runs within `n_tokens` tokens from `first` on, counted from there."""
    begin = np.searchsorted(edges, first, "right") // 2 * 2
    end = (np.searchsorted(edges, first + n_tokens, "left") + 1) // 2 * 2
    within: np.ndarray = np.clip(edges[begin:end] - first, 0, n_tokens)
    return within
