"""Batches from a memory map: a pure function of the step, so the loader has no state to save."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from nanogpt_kit.core.integers import ceil_div
from nanogpt_kit.core.kinds import Order, OrderContext, PackedOrder
from nanogpt_kit.core.step_plan import StepPlan
from nanogpt_kit.data.order_of_sources import checked_starts
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
    all_tokens: int  # predicted tokens of all ranks that count
    segments: Tensor | None = None  # (W, T) int64: the document, within its window, that each token belongs to
    left_out: int = 0  # windows at the end that only fill the batch, and that micro-batches of several leave out
    parts: int = 1  # that each window of block_size tokens was cut into: W is the number of all
    offset: int = 0  # windows of the ranks before this one, each cut into as many parts

    @classmethod
    def from_split(cls, split: Split, starts: np.ndarray, block_size: int, with_segments: bool) -> Batch:
        ids, targets = (torch.from_numpy(array) for array in split.windows(starts, block_size))
        segments = torch.from_numpy(split.segments(starts, block_size)) if with_segments else None
        return cls(ids, targets, starts, int((targets >= 0).sum()), segments)

    @property
    def divisor(self) -> int:
        """What sums over the tokens are divided by: `all_tokens`, or 1 where no token counts, so that means are 0."""
        return max(1, self.all_tokens)

    @property
    def n_windows(self) -> int:
        """Windows at the beginning of the batch that do not only fill it."""
        return len(self.starts) * self.parts

    def is_counted(self, micro_batch: int, size: int) -> bool:
        """Whether a micro-batch (counted from 0) of `size` windows takes part in the means: not one that only fills the
        batch, and none of a step in which no token counts."""
        return self.all_tokens > 0 and micro_batch * size < len(self.starts)

    def first_index(self, micro_batch: int, size: int) -> int:
        """The index, in the batch of all ranks, of the first window of a micro-batch (counted from 0) of `size`."""
        return self.offset + micro_batch * size * self.parts

    def without_targets(self) -> Batch:
        """The same windows; the loss ignores every token."""
        return replace(self, targets=torch.full_like(self.targets, IGNORED), all_tokens=0)

    def first_window(self) -> Batch:
        return replace(self._map(lambda tensor: tensor[:1]), left_out=0, parts=1)

    def cut(self, length: int) -> Batch:
        """The same tokens in windows of `length`, a divisor of T."""
        parts = self.ids.shape[1] // length
        if parts == 1:
            return self
        cut = self._map(lambda tensor: tensor.reshape(-1, length))
        return replace(cut, left_out=self.left_out * parts, parts=parts, offset=self.offset * parts)

    def micro_batches(self, size: int, device: str | None = None) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """(ids, targets, segments) of at most `size` windows of block_size tokens each, whatever they were cut into.

        They are moved to `device` where one is given.
        """
        size *= self.parts
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
        plan: StepPlan | None = None,
        *,
        with_segments: bool = False,
        rank: int = 0,
        world_size: int = 1,
        pin: bool = False,
        leave_out_fill: bool = False,
    ) -> None:
        """`plan` decides the windows of each step; omitted: all have `ctx.batch_windows`.

        With `leave_out_fill`, a window that only makes the batch of a rank as large as that of others is in a
        micro-batch only where it is the only one there. Its targets are ignored in any case."""
        self.split = split
        self.order = order
        self.ctx = ctx
        self.plan = plan or StepPlan(ctx.batch_windows * ctx.block_size, ctx.block_size)
        self.with_segments = with_segments
        self.rank, self.world_size = rank, world_size
        self.pin = pin
        self.leave_out_fill = leave_out_fill

    def at(self, step: int) -> Batch:
        """The batch of one optimizer step, counted from 0."""
        return self.at_steps([step])[0]

    def at_steps(self, steps: Sequence[int]) -> list[Batch]:
        """The batches of several steps. Those that follow each other with equally many windows are made together."""
        if self.plan.has_equal_steps:
            return self.whole_windows(steps)
        groups = [list(group) for _, group in groupby(steps, lambda step: self.plan.at(step).n_windows)]
        batches = [batch for group in groups for batch in self.whole_windows(group)]
        return [batch.cut(self.plan.at(step).length) for step, batch in zip(steps, batches, strict=True)]

    def whole_windows(self, steps: Sequence[int]) -> list[Batch]:
        """Batches of equally many windows, not cut, with as few numpy and torch calls as one batch takes."""
        if isinstance(self.order, PackedOrder):
            return [self.packed_at(self.order, step) for step in steps]
        starts = np.stack([self.starts(step).copy() for step in steps])  # (S, all ranks' W)
        rank_starts = np.array_split(starts, self.world_size, axis=1)
        mine, largest = rank_starts[self.rank], rank_starts[0].shape[1]
        filled = mine if mine.shape[1] == largest else np.hstack([mine, starts[:, :1]])  # the same size on all ranks
        whole = Batch.from_split(self.split, filled.ravel(), self.ctx.block_size, self.with_segments)
        whole.targets.unflatten(0, (-1, largest))[:, mine.shape[1] :] = IGNORED
        parts = (whole.pinned() if self.pin else whole).micro_batches(largest)
        all_tokens = self.split.count_targets(starts, self.ctx.block_size).sum(axis=1).tolist()  # by step
        left_out = largest - mine.shape[1] if self.leave_out_fill else 0
        offset = sum(part.shape[1] for part in rank_starts[: self.rank])
        return [
            Batch(ids, targets, step_starts, counted, segments, left_out, offset=offset)
            for step_starts, counted, (ids, targets, segments) in zip(mine, all_tokens, parts, strict=True)
        ]

    def largest(self) -> Batch:
        """The batch with the most windows, not cut."""
        return self.whole_windows([self.plan.largest_step])[0]

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
        all_tokens = int(self.split.count_targets(packed.starts, packed.lengths).sum())
        used = segments if self.with_segments else None
        batch = Batch(ids, targets, starts, all_tokens, used, left_out, offset=first)
        return batch.pinned() if self.pin else batch

    def context(self, step: int) -> OrderContext:
        batch = self.plan.at(step)
        return replace(self.ctx, first_window=batch.first_window, batch_windows=batch.n_windows)

    def starts(self, step: int) -> np.ndarray:
        """(W,) the first token of each window, of all ranks. Raises RunFailed where one is outside the split."""
        ctx = self.context(step)
        packed = isinstance(self.order, PackedOrder)
        return self.order.starts(step, ctx) if packed else checked_starts(self.order, step, ctx, self.split)


class Prefetcher:
    """Makes batches in a thread while the steps before them run.

    Small batches are made several together: after the arithmetic of a step nothing of this code is left in the caches,
    so every call costs. 24 windows of 64 took 0.43 ms of a core when each batch was made alone, and take 0.11
    (measured beside steps of 42 ms).
    """

    def __init__(self, batches: Batches, total_steps: int) -> None:
        self.batches = batches
        self.total_steps = total_steps
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

    def of_each_shape(self, step: int, micro_batch_size: int, chunks: int) -> list[Batch]:
        """Batches of every shape that is compiled by itself. `chunks` are the parts that a micro-batch is split into.

        It is the batch of a step; where a schedule shapes batches, also that of the last one, and a single window where
        a micro-batch or a chunk may be one, since a size of 1 is compiled apart from all others.
        """
        plan, ranks = self.batches.plan, self.batches.world_size
        if plan.has_equal_steps:
            return [self.at(step)]
        last = self.batches.at(max(step, self.total_steps - 1))
        of_ranks = {share for count in plan.window_counts for share in (count // ranks, ceil_div(count, ranks))}
        may_be_single = any(0 < share % micro_batch_size < 2 * chunks for share in of_ranks)
        return [self.at(step), last, *([last.first_window()] if may_be_single else [])]

    def make_from(self, first: int) -> dict[int, Batch]:
        tokens, end = self.batches.plan.tokens, first + 1
        last = min(first + MAX_PREFETCHED_BATCHES, self.total_steps)
        while end < last and tokens(end + 1) - tokens(first) <= PREFETCH_TOKENS:
            end += 1
        steps = range(first, end)
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
