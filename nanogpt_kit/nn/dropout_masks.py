"""Dropout masks as a function: whether an element is kept is a hash of its row's key and its index in the row.

The hash is a finalizer of 32 bits, found by a search for the least bias, with half of the key added in its middle, so
that rows whose other halves are equal do not share their numbers. Each word of 32 bits decides about two elements, each
by 16 bits: an element is dropped where they are below a threshold. So a rate is rounded to a multiple of 2**-16, and
the elements that are kept are divided by exactly the probability of being kept.

On a CPU NumPy computes the mask in place, in blocks that stay in a core's cache, without Python's lock; torch computes
the same bits on other devices.

Measured on an AMD EPYC (Zen 4), one thread, nanoseconds for an element of 1.6 million: the mask 0.58, and its
application 0.5 in bf16 and 1.0 in fp32; compiled, 0.2 and 0.5. `F.dropout` took 8.0 and 8.9.

Source of the finalizer: Wellons 2018, "Prospecting for Hash Functions", nullprogram.com/blog/2018/07/31 (lowbias32).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nanogpt_kit.nn.splitmix import splitmix64_of_array

LEVELS = 1 << 16  # of a rate
MULTIPLIERS = (0x7FEB352D, 0x846CA68B)  # of lowbias32, whose shifts are 16, 15 and 16
BLOCK_WORDS = 1 << 15  # hashed at once: 0.58 ns for an element; 0.71 for 2**14, 1.08 for 2**13 (AMD EPYC, Zen 4)


def drop_threshold(rate: float) -> int:
    """Of the 65,536 values of 16 bits, how many drop an element."""
    return min(LEVELS, max(0, round(rate * LEVELS)))


def kept_scale(threshold: int) -> float:
    """What elements that are kept are multiplied by; 0 where none is."""
    return LEVELS / (LEVELS - threshold) if threshold < LEVELS else 0.0


def row_keys(call_key: int, first_window: int, n_windows: int, rows: int) -> np.ndarray:
    """(rows, 2) uint32: the key of each row of a tensor.

    Its first axis has the windows of a pass, each in one or more rows. A tensor with any other number of rows has no
    axis of windows: then all windows of the step, in whatever pass they are, have the same keys.
    """
    of_each = rows // n_windows if rows % n_windows == 0 else 0
    key = np.uint64(call_key)
    with np.errstate(over="ignore"):
        if of_each:
            windows = np.arange(first_window + 1, first_window + n_windows + 1, dtype=np.uint64)
            keys = splitmix64_of_array(windows + key)  # (W,)
            if of_each > 1:
                keys = splitmix64_of_array((keys[:, None] + np.arange(of_each, dtype=np.uint64)).ravel())
        else:
            keys = splitmix64_of_array(key - np.arange(rows, dtype=np.uint64))
    return keys.view(np.uint32).reshape(rows, 2)


def numpy_mask(keys: np.ndarray, columns: int, threshold: int) -> np.ndarray:
    """(rows, columns) uint8: 1 for each element that is kept."""
    kept = np.empty((len(keys), columns), np.bool_)
    if threshold >= LEVELS or not columns:
        kept.fill(False)
        return kept.view(np.uint8)
    words = (columns + 1) // 2
    size = min(words, BLOCK_WORDS)
    together = max(1, min(len(keys), BLOCK_WORDS // max(1, size)))  # rows that fill a block
    indices = np.arange(size, dtype=np.uint32)
    block, shifted = np.empty(together * size, np.uint32), np.empty(together * size, np.uint32)
    limit, (first, second) = np.uint16(threshold), map(np.uint32, MULTIPLIERS)
    for top in range(0, len(keys), together):
        if together == 1:  # without an axis of rows: with one it takes a tenth longer
            rows, (low, high) = kept[top], keys[top]
        else:
            rows, low, high = kept[top : top + together], keys[top : top + together, :1], keys[top : top + together, 1:]
        for begin in range(0, words, BLOCK_WORDS):
            count = min(size, words - begin)
            total = rows.size // columns * count
            x, y = block[:total], shifted[:total]
            by_row = x.reshape(*rows.shape[:-1], count)  # (R, W) or (W,), the memory of x
            np.bitwise_xor(np.add(indices[:count], np.uint32(begin), out=y[:count]), low, out=by_row)
            np.right_shift(x, 16, out=y)
            np.bitwise_xor(x, y, out=x)
            np.multiply(x, first, out=x)
            np.right_shift(x, 15, out=y)
            np.bitwise_xor(x, y, out=x)
            np.bitwise_xor(by_row, high, out=by_row)
            np.multiply(x, second, out=x)
            np.right_shift(x, 16, out=y)
            np.bitwise_xor(x, y, out=x)
            decided = rows[..., 2 * begin : 2 * (begin + count)]
            np.greater_equal(by_row.view("<u2")[..., : decided.shape[-1]], limit, out=decided)
    return kept.view(np.uint8)


def torch_mask(keys: Tensor, like: Tensor, threshold: int) -> Tensor:
    """The same for keys (rows, 2) int32, in the shape of `like`, whose first axis has the rows: bool."""
    index = torch.arange(like[0].numel(), dtype=torch.int32, device=like.device).view(like.shape[1:])
    low, high = (half.view(-1, *[1] * (like.dim() - 1)) for half in keys.unbind(1))
    x = index >> 1 ^ low
    x = (x ^ (x >> 16 & 0xFFFF)) * as_int32(MULTIPLIERS[0])  # `>>` copies the sign
    x = (x ^ (x >> 15 & 0x1FFFF) ^ high) * as_int32(MULTIPLIERS[1])
    x = x ^ (x >> 16 & 0xFFFF)
    return (x >> ((index & 1) << 4) & 0xFFFF) >= threshold


def as_int32(x: int) -> int:
    """The int32 of the same bits."""
    return x - (1 << 32) if x >= 1 << 31 else x
