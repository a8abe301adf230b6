"""Each window once per epoch, in an order that is computed, not stored.

The text is divided into windows of block_size tokens, with a new offset each epoch. A Feistel network permutes their
indices, so that the windows of any step can be computed directly, whatever the size of the dataset.

Source: Black & Rogaway 2002, "Ciphers with Arbitrary Finite Domains" (generalized Feistel cipher, cycle walking).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from nanogpt_kit.api import Order, OrderContext
from nanogpt_kit.components.order.permutation import ROUNDS, permute

CHUNK_WINDOWS = 4096  # permuted at once: for a single batch, numpy's calls cost more than its arithmetic


class Shuffled(Order):
    def starts(self, step: int, ctx: OrderContext) -> np.ndarray:
        index, end = ctx.first_window, ctx.first_window + ctx.batch_windows  # of windows, counted over all epochs
        starts = []
        while index < end:  # a batch may span two chunks, or two epochs
            epoch, position = divmod(index, epoch_windows(ctx.n_tokens, ctx.block_size))
            chunk = epoch_chunk(ctx.n_tokens, ctx.block_size, ctx.seed, epoch, position // CHUNK_WINDOWS)
            starts.append(chunk[position % CHUNK_WINDOWS :][: end - index])
            index += len(starts[-1])
        return np.concatenate(starts)


def epoch_windows(n_tokens: int, block_size: int) -> int:
    """Whole windows per epoch; one block is left out so that the offset can vary."""
    return max(1, n_tokens // block_size - 1)


@lru_cache(maxsize=64)  # a source of a mixture needs one or two, of 32 kB
def epoch_chunk(n_tokens: int, block_size: int, seed: int, epoch: int, chunk: int) -> np.ndarray:
    """(at most CHUNK_WINDOWS,) int64: the starts of consecutive windows of an epoch's order."""
    n = epoch_windows(n_tokens, block_size)
    keys = np.random.SeedSequence([seed, epoch]).generate_state(ROUNDS + 1, np.uint64)
    shift = int(keys[ROUNDS]) % (n_tokens - n * block_size)
    indices = np.arange(chunk * CHUNK_WINDOWS, min((chunk + 1) * CHUNK_WINDOWS, n))
    return permute(indices, n, keys[:ROUNDS]) * block_size + shift
