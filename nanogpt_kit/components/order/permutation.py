"""Keyed permutations: the image of any index is computed by itself, and nothing is stored.

Source: Black & Rogaway 2002, "Ciphers with Arbitrary Finite Domains" (generalized Feistel cipher, cycle walking).
"""

from __future__ import annotations

import math

import numpy as np

ROUNDS = 6  # keys of a permutation; even: each half is changed as often as the other


def permute(indices: np.ndarray, n: int, keys: np.ndarray) -> np.ndarray:
    """(N,) int64: the images of `indices` under the permutation of 0 .. n-1 by `keys` (ROUNDS,) uint64."""
    rows = np.uint64(math.isqrt(n - 1) + 1)
    columns = np.uint64(-(-n // int(rows)))
    values = indices.astype(np.uint64)
    outside = np.ones(len(values), dtype=bool)
    while outside.any():  # rows * columns is slightly above n: permute again until below n
        values[outside] = feistel(values[outside], rows, columns, keys)
        outside = values >= n
    return values.astype(np.int64)


def permute_each(indices: np.ndarray, sizes: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """(N,) int64: as `permute`, with a size (N,) int64 and keys (ROUNDS, N) for each index."""
    rows = np.sqrt(sizes).astype(np.uint64) + np.uint64(1)  # any number of rows will do
    columns = (sizes.astype(np.uint64) - np.uint64(1)) // rows + np.uint64(1)
    values = indices.astype(np.uint64)
    outside = np.arange(len(values))
    while len(outside):
        permuted = feistel(values[outside], rows[outside], columns[outside], keys[:, outside])
        values[outside] = permuted
        outside = outside[permuted >= sizes[outside].astype(np.uint64)]
    return values.astype(np.int64)


def feistel(
    values: np.ndarray, rows: np.ndarray | np.uint64, columns: np.ndarray | np.uint64, keys: np.ndarray
) -> np.ndarray:
    """(N,) uint64: the images of `values` under a permutation of 0 .. rows * columns - 1."""
    row, column = np.divmod(values, columns)
    for key, other in zip(keys[::2], keys[1::2], strict=True):
        row = (row + mix_bits(column + key) % rows) % rows
        column = (column + mix_bits(row + other) % columns) % columns
    permuted: np.ndarray = row * columns + column
    return permuted


def mix_bits(x: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser (Steele, Lea & Flood 2014); multiplication wraps around."""
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    x = x ^ x >> np.uint64(31)
    return x
