"""Each window once an epoch, in an order that is computed rather than stored.

The text is cut into windows of block_size tokens, shifted by another offset each epoch; a Feistel network permutes
their numbers, so that any step of any epoch is had at once, whatever the size of the set.
Source: Black & Rogaway 2002, "Ciphers with Arbitrary Finite Domains" (generalized Feistel cipher, cycle walking).
"""

from __future__ import annotations

import math

import numpy as np

from nanogpt_kit.api import Order, OrderContext

ROUNDS = 6  # even: each half is changed as often as the other


class Shuffled(Order):
    def starts(self, step: int, ctx: OrderContext) -> np.ndarray:
        n = epoch_windows(ctx)
        numbers = np.arange(step * ctx.batch_windows, (step + 1) * ctx.batch_windows)  # windows seen before this one
        epochs = numbers // n
        starts = np.empty_like(numbers)
        for epoch in np.unique(epochs):  # a batch may straddle two
            keys = np.random.SeedSequence([ctx.seed, int(epoch)]).generate_state(ROUNDS + 1, np.uint64)
            shift = int(keys[ROUNDS]) % (ctx.n_tokens - n * ctx.block_size)
            here = epochs == epoch
            starts[here] = permuted(numbers[here] % n, n, keys[:ROUNDS]) * ctx.block_size + shift
        return starts


def epoch_windows(ctx: OrderContext) -> int:
    """How many whole windows an epoch has; a block is spared so that the offset can move."""
    return max(1, ctx.n_tokens // ctx.block_size - 1)


def permuted(numbers: np.ndarray, n: int, keys: np.ndarray) -> np.ndarray:
    """Where a keyed permutation of 0 .. n-1 sends `numbers`."""
    rows = np.uint64(math.isqrt(n - 1) + 1)
    columns = np.uint64(-(-n // int(rows)))
    values = numbers.astype(np.uint64)
    outside = np.ones(len(values), dtype=bool)
    while outside.any():  # rows * columns >= n numbers are permuted, few more: walk on until back below n
        row, column = np.divmod(values[outside], columns)
        for key, other in keys.reshape(-1, 2):
            row = (row + mixed(column + key) % rows) % rows
            column = (column + mixed(row + other) % columns) % columns
        values[outside] = row * columns + column
        outside = values >= n
    return values.astype(np.int64)


def mixed(x: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser (Steele, Lea & Flood 2014); multiplication wraps around."""
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    x = x ^ x >> np.uint64(31)
    return x
