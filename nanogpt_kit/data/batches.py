"""Batches from a memory map: a pure function of the step, so the loader has no state to save."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from nanogpt_kit.core.errors import RunFailed
from nanogpt_kit.core.integers import ceil_div
from nanogpt_kit.core.kinds import Order, OrderContext, PackedOrder
from nanogpt_kit.data.packed import assemble, packed_windows, select_windows
from nanogpt_kit.data.split import Split
from nanogpt_kit.nn.loss import IGNORED

PREFETCH_TOKENS = 16_384  # of the batches that are made together, approximately
MAX_PREFETCHED_BATCHES = 32  # made together: the first step waits for all of them


@dataclass(frozen=True)
class Batch:
    """The windows of one optimizer step, or of one pass of an evaluation."""

    ids: Tensor  # (W, T) int64
    targets: Tensor  # (W, T) int64: the next token of each; -1 where there is none
    starts: np.ndarray  # (W,) each window's first token in the split, without windows that fill the batch
    all_tokens: int  # predicted tokens of all ranks
    segments: Tensor | None = None  # (W, T) int64: the document, within its window, that each token belongs to
    left_out: int = 0  # windows at the end that only fill the batch, and that micro-batches of several leave out

    @classmethod
    def from_split(cls, split: Split, starts: np.ndarray, block_size: int, with_segments: bool) -> Batch:
        ids, targets = (torch.from_numpy(array) for array in split.windows(starts, block_size))
        segments = torch.from_numpy(split.segments(starts, block_size)) if with_segments else None
        return cls(ids, targets, starts, int((targets >= 0).sum()), segments)

    def without_targets(self) -> Batch:
        """The same windows; the loss ignores every token."""
        return replace(self, targets=torch.full_like(self.targets, IGNORED), all_tokens=0)

    def micro_batches(self, size: int, device: str | None = None) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """(ids, targets, segments) of at most `size` windows each, moved to `device` where one is given."""
        batch = self.to(device) if device else self
        whole = batch.ids, batch.targets, batch.segments
        parts = [whole]  # a split into one part would cost 0.1 ms while the caches hold the step's data
        if size < len(batch.ids):
            n = ceil_div(len(batch.ids), size)
            split = ([None] * n if tensor is None else tensor.split(size) for tensor in whole)
            parts = list(zip(*split, strict=True))
        ids, targets, segments = parts[-1]
        if 0 < self.left_out < len(ids):
            kept = slice(len(ids) - self.left_out)
            parts[-1] = ids[kept], targets[kept], None if segments is None else segments[kept]
        return parts

    def pinned(self) -> Batch:
        """The same batch in pinned memory, from which a GPU copies while it computes."""
        return self._map(Tensor.pin_memory)

    def to(self, device: str) -> Batch:
        if self.ids.device.type == device:
            return self
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        segments = None if self.segments is None else change(self.segments)
        return replace(self, ids=change(self.ids), targets=change(self.targets), segments=segments)


class Batches:
    """The training windows of each step, or of one rank's part of it."""

    def __init__(
        self,
        split: Split,
        order: Order,
        ctx: OrderContext,
        *,
        with_segments: bool = False,
        rank: int = 0,
        world_size: int = 1,
        pin: bool = False,
        leave_out_fill: bool = False,
    ) -> None:
        """With `leave_out_fill`, a window that only makes the batch of a rank as large as that of others is in a
        micro-batch only where it is the only one there. Its targets are ignored in any case."""
        self.split = split
        self.order = order
        self.ctx = ctx
        self.with_segments = with_segments
        self.rank, self.world_size = rank, world_size
        self.pin = pin
        self.leave_out_fill = leave_out_fill

    def at(self, step: int) -> Batch:
        """The batch of one optimizer step, counted from 0."""
        return self.at_steps([step])[0]

    def at_steps(self, steps: Sequence[int]) -> list[Batch]:
        """The batches of several steps, made together with as few numpy and torch calls as one batch takes."""
        if isinstance(self.order, PackedOrder):
            return [self.packed_at(self.order, step) for step in steps]
        starts = np.stack([self.starts(step).copy() for step in steps])  # (S, all ranks' W)
        rank_starts = np.array_split(starts, self.world_size, axis=1)
        mine, largest = rank_starts[self.rank], rank_starts[0].shape[1]
        filled = mine if mine.shape[1] == largest else np.hstack([mine, starts[:, :1]])  # the same size on all ranks
        whole = Batch.from_split(self.split, filled.ravel(), self.ctx.block_size, self.with_segments)
        whole.targets.unflatten(0, (-1, largest))[:, mine.shape[1] :] = IGNORED
        parts = (whole.pinned() if self.pin else whole).micro_batches(largest)
        all_tokens = starts.shape[1] * self.ctx.block_size  # no window reaches past the end
        left_out = largest - mine.shape[1] if self.leave_out_fill else 0
        return [
            Batch(ids, targets, step_starts, all_tokens, segments, left_out)
            for step_starts, (ids, targets, segments) in zip(mine, parts, strict=True)
        ]

    def packed_at(self, order: PackedOrder, step: int) -> Batch:
        """The batch of a step whose windows are made of pieces; those that fill up a rank's part have none."""
        ctx = self.context(step)
        packed = packed_windows(order, step, ctx)
        size, remainder = divmod(ctx.batch_windows, self.world_size)
        first = self.rank * size + min(self.rank, remainder)
        count, largest = size + (self.rank < remainder), size + (remainder > 0)
        mine = select_windows(packed, first, first + count)
        ids, targets, segments = map(torch.from_numpy, assemble(self.split, mine, largest, ctx.block_size))
        starts = mine.starts[mine.rows.searchsorted(np.arange(count))]
        left_out = largest - count if self.leave_out_fill else 0
        all_tokens = int(packed.lengths.sum())
        batch = Batch(ids, targets, starts, all_tokens, segments if self.with_segments else None, left_out)
        return batch.pinned() if self.pin else batch

    def context(self, step: int) -> OrderContext:
        return replace(self.ctx, first_window=step * self.ctx.batch_windows)

    def starts(self, step: int) -> np.ndarray:
        """(W,) the first token of each window, of all ranks. Raises RunFailed where one is outside the split."""
        ctx = self.context(step)
        starts = self.order.starts(step, ctx)
        if isinstance(self.order, PackedOrder):
            return starts
        last = ctx.n_tokens - ctx.block_size - 1
        if starts.shape != (ctx.batch_windows,) or starts.min() < 0 or starts.max() > last:
            expected = f"expected {ctx.batch_windows} starts from 0 to {last}"
            raise RunFailed(f"order {type(self.order).__name__} returned starts {starts} for step {step}; {expected}")
        return self.split.move_to_documents(starts, ctx.block_size) if self.order.at_documents else starts


class Prefetcher:
    """Makes batches in a thread while the steps before them run.

    Small batches are made several together: after the arithmetic of a step nothing of this code is left in the caches,
    so every call costs. 24 windows of 64 took 0.43 ms of a core when each batch was made alone, and take 0.11
    (measured beside steps of 42 ms).
    """

    def __init__(self, batches: Batches, total_steps: int) -> None:
        self.batches = batches
        self.total_steps = total_steps
        self.batches_together = max(
            1, min(MAX_PREFETCHED_BATCHES, PREFETCH_TOKENS // (batches.ctx.batch_windows * batches.ctx.block_size))
        )
        self.thread = ThreadPoolExecutor(1, "batches")
        self.ready: dict[int, Batch] = {}  # by step
        self.pending: tuple[int, Future[dict[int, Batch]]] | None = None  # the first step, and the batches from it on

    def at(self, step: int) -> Batch:
        """As `Batches.at`. Fast for consecutive steps; the batch of any other step is made now."""
        if step not in self.ready:
            pending, self.pending = self.pending, None
            self.ready = pending[1].result() if pending and pending[0] == step else self.make_from(step)
            next_step = step + len(self.ready)
            if next_step < self.total_steps:
                self.pending = next_step, self.thread.submit(self.make_from, next_step)
        return self.ready.pop(step)

    def make_from(self, first: int) -> dict[int, Batch]:
        steps = range(first, max(first + 1, min(first + self.batches_together, self.total_steps)))
        try:
            return dict(zip(steps, self.batches.at_steps(steps), strict=True))
        except Exception:  # of any of these steps; it is raised when that step is reached
            return {first: self.batches.at(first)}


def evaluation_batches(
    split: Split, block_size: int, batch_size: int, with_segments: bool = False, rank: int = 0, world_size: int = 1
) -> Iterator[Batch]:
    """A whole split in windows that do not overlap: every token but the first is a target exactly once.

    Ranks take the batches in turn, each the same number: the last one of some ranks may have no targets.
    """
    starts = np.arange(0, len(split.tokens) - 1, block_size)
    for first in range(0, len(starts), batch_size * world_size):
        mine = starts[first + rank * batch_size :][:batch_size]
        batch = Batch.from_split(split, mine if len(mine) else starts[:1], block_size, with_segments)
        yield batch if len(mine) else batch.without_targets()
