"""Each window once an epoch, in an order that is computed rather than stored.

The text is cut into windows of block_size tokens, shifted by another offset each epoch; a Feistel network permutes
their numbers, so that any step of any epoch is had at once, whatever the size of the set.
Source: Black & Rogaway 2002, "Ciphers with Arbitrary Finite Domains" (generalized Feistel cipher, cycle walking).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from nanogpt_kit.api import Order, OrderContext

ROUNDS = 6  # even: each half is changed as often as the other
PART = 4096  # windows permuted at a time: for the few of a batch numpy's calls cost more than its arithmetic


class Shuffled(Order):
    def starts(self, step: int, ctx: OrderContext) -> np.ndarray:
        number, end = step * ctx.batch_windows, (step + 1) * ctx.batch_windows  # windows, counted on through the epochs
        pieces = []
        while number < end:  # a batch may straddle two parts, or two epochs
            epoch, place = divmod(number, epoch_windows(ctx.n_tokens, ctx.block_size))
            part = part_of_epoch(ctx.n_tokens, ctx.block_size, ctx.seed, epoch, place // PART)
            pieces.append(part[place % PART :][: end - number])
            number += len(pieces[-1])
        return np.concatenate(pieces)


def epoch_windows(n_tokens: int, block_size: int) -> int:
    """How many whole windows an epoch has; a block is spared so that the offset can move."""
    return max(1, n_tokens // block_size - 1)


@lru_cache(maxsize=2)
def part_of_epoch(n_tokens: int, block_size: int, seed: int, epoch: int, part: int) -> np.ndarray:
    """(at most PART,) int64: where its windows start."""
    n = epoch_windows(n_tokens, block_size)
    keys = np.random.SeedSequence([seed, epoch]).generate_state(ROUNDS + 1, np.uint64)
    shift = int(keys[ROUNDS]) % (n_tokens - n * block_size)
    numbers = np.arange(part * PART, min((part + 1) * PART, n))
    return permuted(numbers, n, keys[:ROUNDS]) * block_size + shift


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
