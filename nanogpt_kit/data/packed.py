"""The windows of packed orders: checked, and made of the tokens of their pieces."""

from __future__ import annotations

import numpy as np

from nanogpt_kit.core.errors import RunFailed
from nanogpt_kit.core.kinds import OrderContext, PackedOrder, PackedWindows
from nanogpt_kit.data.split import Split
from nanogpt_kit.nn.loss import IGNORED

PADDING = 0  # an id that every vocabulary has


def packed_windows(order: PackedOrder, step: int, ctx: OrderContext, of_source: str = "") -> PackedWindows:
    """The windows of a step, of all ranks. Raises RunFailed where they are not what `PackedOrder.packed` promises."""
    packed = order.packed(step, ctx)
    if fault := packing_fault(packed, ctx):
        raise RunFailed(f"order {type(order).__name__} packed the windows of step {step}{of_source} wrongly: {fault}")
    return packed


def packing_fault(packed: PackedWindows, ctx: OrderContext) -> str | None:
    """What is wrong with the windows of a step, and what is expected; None where nothing is."""
    starts, lengths, rows = packed.starts, packed.lengths, packed.rows
    shapes = starts.shape, lengths.shape, rows.shape
    if len(set(shapes)) > 1 or starts.ndim != 1:
        return f"starts, lengths and rows have the shapes {shapes}; expected one value of each for each piece"
    dtypes = [array.dtype.name for array in (starts, lengths, rows)]
    if dtypes != ["int64"] * 3:
        return f"starts, lengths and rows are {', '.join(dtypes)}; expected int64"
    n = ctx.batch_windows
    if not np.array_equal(np.unique(rows), np.arange(n)) or (np.diff(rows) < 0).any():
        return f"the rows are {rows}; expected ascending ones from 0 to {n - 1}, each at least once"
    outside = np.flatnonzero((starts < 0) | (lengths < 1) | (starts + lengths > ctx.n_tokens - 1))
    if len(outside):
        first = outside[0]
        found = f"piece {first} has {lengths[first]} tokens from token {starts[first]} on"
        return f"{found}; expected at least 1, of the tokens 0 to {ctx.n_tokens - 2}"
    sums = np.bincount(rows, weights=lengths)
    if sums.max() > ctx.block_size:
        found = f"the pieces of window {sums.argmax()} have {int(sums.max())} tokens together"
        return f"{found}; expected at most {ctx.block_size}"
    return None


def select_windows(packed: PackedWindows, first: int, end: int) -> PackedWindows:
    """The windows from `first` to `end` - 1, counted from 0."""
    part = slice(*packed.rows.searchsorted([first, end]))
    return PackedWindows(packed.starts[part], packed.lengths[part], packed.rows[part] - first)


def assemble(split: Split, packed: PackedWindows, n_windows: int, block_size: int) -> tuple[np.ndarray, ...]:
    """Ids, targets and segments, each (n_windows, T) int64: the pieces of each window, then padding without targets.

    Each piece is a segment, counted from 0 in its window, and so is the padding. Windows without pieces are padding.
    """
    starts, lengths, rows = packed.starts, packed.lengths, packed.rows
    ids = np.full(n_windows * block_size, PADDING, dtype=np.int64)
    targets = np.full_like(ids, IGNORED)
    before = np.cumsum(lengths) - lengths  # tokens of the pieces before each
    pieces = np.bincount(rows, minlength=n_windows)  # of each window
    first_pieces = np.cumsum(pieces) - pieces
    place = before - before[first_pieces[rows]] + rows * block_size  # of each piece
    within = np.arange(lengths.sum()) - np.repeat(before, lengths)  # its piece, for each token
    at, places = np.repeat(starts, lengths) + within, np.repeat(place, lengths) + within
    ids[places] = split.tokens[at]
    targets[places] = np.where(split.counts(at + 1), split.tokens[at + 1].astype(np.int64), IGNORED)
    segments = np.repeat(pieces, block_size)
    segments[places] = np.repeat(np.arange(len(rows)) - first_pieces[rows], lengths)
    shape = n_windows, block_size
    return ids.reshape(shape), targets.reshape(shape), segments.reshape(shape)
