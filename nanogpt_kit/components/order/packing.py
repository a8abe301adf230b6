"""The windows of an epoch of documents: which lengths share a window, and which documents have these lengths.

A window has a place for each of its pieces. The places of one length are numbered, as are the pieces of that length; a
keyed permutation of these numbers decides which piece is where.
"""

from __future__ import annotations

import numpy as np

from nanogpt_kit.components.order.best_fit import best_fit_decreasing
from nanogpt_kit.components.order.permutation import ROUNDS, mix_bits, permute, permute_each


class Pieces:
    """The pieces of a text, by their length: those shorter than a window, then those that fill one."""

    def __init__(self, documents: np.ndarray, n_tokens: int, block_size: int, has_eot: bool) -> None:
        """`documents` (n_documents,) are their first tokens. Each opens with the end-of-text token before it, if any.

        The last token of the text is only a target.
        """
        opens = np.maximum(documents - has_eot, 0)
        self.block_size = block_size
        whole, rest = np.divmod(np.diff(opens, append=n_tokens - 1), block_size)  # windows that are filled, and tokens
        rest = rest.astype(np.min_scalar_type(block_size))  # numpy sorts 16 bits by radix
        self.long_documents = opens[whole > 0]
        self.wholes_before = np.cumsum(whole[whole > 0]) - whole[whole > 0]  # of each long document
        self.counts = np.bincount(rest, minlength=block_size + 1)  # by length
        self.counts[0], self.counts[block_size] = 0, whole.sum()
        opens += whole * block_size  # of the rests now
        order = np.argsort(rest, kind="stable")[np.count_nonzero(rest == 0) :]
        self.short = opens[order]  # first tokens of the pieces shorter than a window
        self.first = np.cumsum(self.counts) - self.counts  # of each length, the index of its first piece

    def starts(self, lengths: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """(P,) int64: the first tokens of the pieces of these lengths, each by its index among those of its length."""
        starts = np.empty(len(lengths), dtype=np.int64)
        fills = lengths == self.block_size
        starts[~fills] = self.short[self.first[lengths[~fills]] + indices[~fills]]
        document = np.searchsorted(self.wholes_before, indices[fills], side="right") - 1
        within = indices[fills] - self.wholes_before[document]
        starts[fills] = self.long_documents[document] + within * self.block_size
        return starts


class Packing:
    """The windows of each epoch. P places are those of one window for each pattern."""

    def __init__(self, documents: np.ndarray, n_tokens: int, block_size: int, has_eot: bool) -> None:
        self.pieces = Pieces(documents, n_tokens, block_size, has_eot)
        patterns = best_fit_decreasing(self.pieces.counts.tolist(), block_size)
        lengths = [pattern.lengths() for pattern, _ in patterns]
        windows = np.array([n for _, n in patterns])  # of each pattern
        self.n_windows = int(windows.sum())
        self.first_windows = np.cumsum(windows) - windows  # of each pattern
        self.sizes = np.array([len(pattern) for pattern in lengths])  # of each pattern, its places
        self.first_places = np.cumsum(self.sizes) - self.sizes  # of each pattern
        self.lengths = np.concatenate(lengths)  # (P,)
        windows_of_place = np.repeat(windows, self.sizes)
        by_length = np.argsort(self.lengths, kind="stable")
        before = np.empty_like(self.lengths)
        before[by_length] = np.cumsum(windows_of_place[by_length]) - windows_of_place[by_length]
        self.numbers = before - self.pieces.first[self.lengths]  # (P,) of the place in its pattern's first window

    def windows(self, indices: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Starts, lengths and rows of the pieces of an epoch's windows `indices`, by `keys` (2 * ROUNDS,) uint64."""
        window = permute(indices, self.n_windows, keys[:ROUNDS])
        pattern = np.searchsorted(self.first_windows, window, side="right") - 1
        rows = np.repeat(np.arange(len(window)), self.sizes[pattern])
        place = concatenated_ranges(self.first_places[pattern], self.sizes[pattern])
        lengths = self.lengths[place]
        numbers = self.numbers[place] + (window - self.first_windows[pattern])[rows]
        keys_of_length = mix_bits(keys[ROUNDS:, None] + lengths.astype(np.uint64))  # (ROUNDS, pieces)
        drawn = permute_each(numbers, self.pieces.counts[lengths], keys_of_length)
        starts = self.pieces.starts(lengths, drawn)
        order = np.lexsort((mix_bits(starts.astype(np.uint64) + keys[0]), rows))  # else the shortest came first
        return starts[order], lengths[order], rows


def concatenated_ranges(firsts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(sizes.sum(),) int64: firsts[0], firsts[0] + 1, ... for each size, one range after the other."""
    before = np.cumsum(sizes) - sizes
    ranges: np.ndarray = np.arange(sizes.sum()) + np.repeat(firsts - before, sizes)
    return ranges
