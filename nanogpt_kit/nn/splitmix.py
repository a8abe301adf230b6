"""splitmix64's finalizer: a hash of 64 bits, of an integer or of an array.

Source: Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators".
"""

from __future__ import annotations

import numpy as np

GOLDEN = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio, made odd: what the generator adds to its state each time


def splitmix64(x: int) -> int:
    """The hash of an integer, which wraps around at 2**64."""
    x &= (1 << 64) - 1
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & (1 << 64) - 1
    x = (x ^ x >> 27) * 0x94D049BB133111EB & (1 << 64) - 1
    return x ^ x >> 31


def splitmix64_of_array(x: np.ndarray) -> np.ndarray:
    """The hash of each element of a uint64 array."""
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = x ^ x >> np.uint64(31)
    return mixed


def hash_of_sequence(*values: int) -> int:
    """A hash of integers in this order."""
    state = 0
    for value in values:
        state = splitmix64(state + value + GOLDEN)
    return state
