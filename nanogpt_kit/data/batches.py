"""Batches from a memory map: a pure function of the step, so no loader has state to lose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from nanogpt_kit.core.errors import RunFailed
from nanogpt_kit.core.integers import ceil_div
from nanogpt_kit.core.kinds import Order, OrderContext
from nanogpt_kit.data.split import Split
from nanogpt_kit.nn.loss import IGNORED

AHEAD_TOKENS = 16_384  # of the batches that are made at a time, about
MOST_AHEAD = 32  # of them: the first step waits for as many


@dataclass(frozen=True)
class Batch:
    """Windows of one optimizer step, or of one part of an evaluation."""

    ids: Tensor  # (W, T) int64
    targets: Tensor  # (W, T) int64, the next token of each; -1 where there is none
    starts: np.ndarray  # (W,) where each window begins in the split, without those that only fill the batch up
    all_tokens: int  # that are predicted, on all ranks
    segments: Tensor | None = None  # (W, T) int64, which document of its window each token belongs to

    @classmethod
    def of(cls, split: Split, starts: np.ndarray, block_size: int, with_segments: bool) -> Batch:
        ids, targets = (torch.from_numpy(array) for array in split.windows(starts, block_size))
        segments = torch.from_numpy(split.segments(starts, block_size)) if with_segments else None
        return cls(ids, targets, starts, int((targets >= 0).sum()), segments)

    def ignored(self) -> Batch:
        """The same windows, of which no token counts."""
        return replace(self, targets=torch.full_like(self.targets, IGNORED), all_tokens=0)

    def micro_batches(self, size: int, device: str | None = None) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """(ids, targets, segments) of `size` windows at a time, on a device or where they are."""
        here = self.to(device) if device else self
        whole = here.ids, here.targets, here.segments
        if size >= len(here.ids):
            return [whole]  # cutting nothing off costs 0.1 ms where the caches are full of something else
        n = ceil_div(len(here.ids), size)
        ids, targets, segments = ([None] * n if tensor is None else tensor.split(size) for tensor in whole)
        return list(zip(ids, targets, segments, strict=True))

    def pinned(self) -> Batch:
        """In memory from which a GPU fetches while it computes."""
        return self._with(Tensor.pin_memory)

    def to(self, device: str) -> Batch:
        if self.ids.device.type == device:
            return self
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def _with(self, change: Callable[[Tensor], Tensor]) -> Batch:
        segments = None if self.segments is None else change(self.segments)
        return replace(self, ids=change(self.ids), targets=change(self.targets), segments=segments)


class Batches:
    """The training windows of each step, or one rank's share of them."""

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
    ) -> None:
        self.split = split
        self.order = order
        self.ctx = ctx
        self.with_segments = with_segments
        self.rank, self.world_size = rank, world_size
        self.pin = pin

    def at(self, step: int) -> Batch:
        """The batch of the update that is number `step`, counted from 0."""
        return self.of([step])[0]

    def of(self, steps: Sequence[int]) -> list[Batch]:
        """Those of several steps, in the calls that one of them would take."""
        starts = np.stack([self.starts(step).copy() for step in steps])  # (S, all ranks' W)
        shares = np.array_split(starts, self.world_size, axis=1)
        mine, largest = shares[self.rank], shares[0].shape[1]
        filled = mine if mine.shape[1] == largest else np.hstack([mine, starts[:, :1]])  # all ranks compute as much
        whole = Batch.of(self.split, filled.ravel(), self.ctx.block_size, self.with_segments)
        whole.targets.unflatten(0, (-1, largest))[:, mine.shape[1] :] = IGNORED
        parts = (whole.pinned() if self.pin else whole).micro_batches(largest)
        all_tokens = starts.shape[1] * self.ctx.block_size  # windows lie in the text, whole
        return [Batch(*tensors[:2], own, all_tokens, tensors[2]) for own, tensors in zip(mine, parts, strict=True)]

    def starts(self, step: int) -> np.ndarray:
        """(W,) where all ranks' windows begin. Raises RunFailed for an order that leaves the text."""
        starts = self.order.starts(step, self.ctx)
        last = self.ctx.n_tokens - self.ctx.block_size - 1
        if starts.shape != (self.ctx.batch_windows,) or starts.min() < 0 or starts.max() > last:
            expected = f"expected {self.ctx.batch_windows} of them, from 0 to {last}"
            raise RunFailed(f"order {type(self.order).__name__} gave starts {starts} for step {step}; {expected}")
        return self.split.at_documents(starts, self.ctx.block_size) if self.order.at_documents else starts


class Prefetcher:
    """Batches made in a thread of their own while the steps before them run.

    Small ones are gathered several at a time: after the arithmetic of a step nothing of this code is left in the
    caches, and every call tells. 24 windows of 64 took 0.43 ms of a core when each batch was permuted and gathered by
    itself, and take 0.11 (measured beside steps of 42 ms).
    """

    def __init__(self, batches: Batches, total_steps: int) -> None:
        self.batches = batches
        self.total_steps = total_steps
        self.count = max(1, min(MOST_AHEAD, AHEAD_TOKENS // (batches.ctx.batch_windows * batches.ctx.block_size)))
        self.thread = ThreadPoolExecutor(1, "batches")
        self.ready: dict[int, Batch] = {}  # by step
        self.coming: tuple[int, Future[dict[int, Batch]]] | None = None  # and the first step of them

    def at(self, step: int) -> Batch:
        """As `Batches.at`. Steps are asked for in turn; any other is made on the spot."""
        if step not in self.ready:
            waiting, self.coming = self.coming, None
            self.ready = waiting[1].result() if waiting and waiting[0] == step else self.make(step)
            following = step + len(self.ready)
            if following < self.total_steps:
                self.coming = following, self.thread.submit(self.make, following)
        return self.ready.pop(step)

    def make(self, first: int) -> dict[int, Batch]:
        steps = range(first, max(first + 1, min(first + self.count, self.total_steps)))
        try:
            return dict(zip(steps, self.batches.of(steps), strict=True))
        except Exception:  # of any of these steps; it is raised where that one is wanted
            return {first: self.batches.at(first)}


def evaluation_batches(
    split: Split, block_size: int, batch_size: int, with_segments: bool = False, rank: int = 0, world_size: int = 1
) -> Iterator[Batch]:
    """A whole split in windows that do not overlap: every token but the first is a target exactly once.

    Ranks take the batches in turn, each as many: in the last round some may get one that has no targets.
    """
    starts = np.arange(0, len(split.tokens) - 1, block_size)
    for first in range(0, len(starts), batch_size * world_size):
        mine = starts[first + rank * batch_size :][:batch_size]
        batch = Batch.of(split, mine if len(mine) else starts[:1], block_size, with_segments)
        yield batch if len(mine) else batch.ignored()
