"""Batches from a memory map: a pure function of the step, so no loader has state to lose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from nanogpt_kit.core.errors import RunFailed
from nanogpt_kit.core.kinds import Order, OrderContext


@dataclass(frozen=True)
class Batch:
    """Windows of one optimizer step, or of one part of an evaluation."""

    ids: Tensor  # (W, T) int64
    targets: Tensor  # (W, T) int64, the next token of each; -1 where there is none
    starts: np.ndarray  # (W,) where each window begins in the split

    @cached_property
    def tokens(self) -> int:
        """How many tokens are predicted."""
        return int((self.targets >= 0).sum())

    def micro_batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(self.ids.split(size), self.targets.split(size), strict=True)


class Batches:
    """The training windows of each step."""

    def __init__(self, tokens: np.ndarray, order: Order, ctx: OrderContext) -> None:
        self.tokens = tokens
        self.order = order
        self.ctx = ctx

    def at(self, step: int) -> Batch:
        """The whole batch of the update that is number `step`, counted from 0."""
        starts = self.order.starts(step, self.ctx)
        last = self.ctx.n_tokens - self.ctx.block_size - 1
        if starts.shape != (self.ctx.batch_windows,) or starts.min() < 0 or starts.max() > last:
            expected = f"expected {self.ctx.batch_windows} of them, from 0 to {last}"
            raise RunFailed(f"order {type(self.order).__name__} gave starts {starts} for step {step}; {expected}")
        windows = self.tokens[starts[:, None] + np.arange(self.ctx.block_size + 1)].astype(np.int64)  # (W, T + 1)
        return Batch(torch.from_numpy(windows[:, :-1]), torch.from_numpy(windows[:, 1:]), starts)


def every_token_once(tokens: np.ndarray, block_size: int, batch_size: int) -> Iterator[Batch]:
    """A whole split in windows that do not overlap: every token but the first is a target exactly once."""
    n_targets = len(tokens) - 1
    starts = np.arange(0, n_targets, block_size)
    for first in range(0, len(starts), batch_size):
        here = starts[first : first + batch_size]
        at = here[:, None] + np.arange(block_size + 1)  # (W, T + 1); the last window may reach past the end
        windows = tokens[np.minimum(at, n_targets)].astype(np.int64)
        targets = np.where(at[:, 1:] <= n_targets, windows[:, 1:], -1)
        yield Batch(torch.from_numpy(windows[:, :-1]), torch.from_numpy(targets), here)
