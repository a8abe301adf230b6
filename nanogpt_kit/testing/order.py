"""The suite for orders: pure functions of the step, within the text, as fast for late steps as for early ones."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from statistics import median
from typing import ClassVar

import numpy as np
import pytest

from nanogpt_kit.core.kinds import Order, OrderContext, PackedOrder
from nanogpt_kit.testing.packed_order import PackedOrderConformance

SIZES = [(17, 16), (33, 16), (49, 16), (50, 1), (1000, 7), (4111, 16)]  # (n_tokens, block_size), down to one window
LATE_STEP = 10**6  # too late to get there step by step


class OrderConformance(PackedOrderConformance):
    """Subclass it with `component = MyOrder(...)`; set `varies = False` if steps and seeds need not differ.

    With `reads_tokens = True` the text of every test is short enough to be read.
    """

    component: ClassVar[Order]
    varies: ClassVar[bool] = True  # whether two steps, and two seeds, have different windows
    reads_tokens: ClassVar[bool] = False  # whether it reads the text, which is then short in every test

    def epoch(self, ctx: OrderContext) -> int | None:
        """Windows of an epoch, for an order that uses each token once in them, or leaves it out; None for others."""
        return None

    def context(self, n_tokens: int, block_size: int, batch_windows: int = 11, seed: int = 3) -> OrderContext:
        """That of step 0."""
        documents = np.arange(0, n_tokens, max(1, n_tokens // 10))
        return OrderContext(
            n_tokens=n_tokens,
            block_size=block_size,
            first_window=0,
            batch_windows=batch_windows,
            seed=seed,
            documents=documents,
            tokens=np.random.default_rng(1).integers(0, 50, n_tokens, np.uint16) if n_tokens < 10**6 else None,
        )

    def starts(self, step: int, ctx: OrderContext) -> np.ndarray:
        """The windows of a step where all steps have `ctx.batch_windows`."""
        return self.component.starts(step, replace(ctx, first_window=step * ctx.batch_windows))

    @pytest.mark.parametrize(("n_tokens", "block_size"), SIZES)
    @pytest.mark.parametrize("step", [0, 1, 29, LATE_STEP])
    def test_each_window_and_its_next_token_lie_in_the_text(self, n_tokens: int, block_size: int, step: int) -> None:
        if isinstance(self.component, PackedOrder):
            pytest.skip(f"{type(self.component).__name__} is a PackedOrder")
        starts = self.starts(step, self.context(n_tokens, block_size))
        case = f"step {step} of {n_tokens} tokens with block_size {block_size}"
        assert starts.shape == (11,), f"{case}: {starts.shape}, not (11,): return ctx.batch_windows starts"
        assert starts.dtype == np.int64, f"{case}: {starts.dtype}: convert the starts with .astype(np.int64)"
        last = n_tokens - block_size - 1
        inside = starts.min() >= 0 and starts.max() <= last
        remedy = "a window has block_size + 1 tokens, so the last one starts at n_tokens - block_size - 1"
        assert inside, f"{case}: starts from {starts.min()} to {starts.max()}, not from 0 to {last}: {remedy}"

    def test_the_same_step_always_gives_the_same_windows(self) -> None:
        ctx = self.context(5000, 16)
        np.random.seed(1)
        before = self.starts(29, ctx).copy()
        self.starts(3, ctx)
        np.random.seed(2)
        same = np.array_equal(self.starts(29, ctx), before)
        remedy = "draw from a generator that is seeded with ctx.seed and the step, and keep nothing from call to call"
        assert same, f"step 29 gives other windows the second time: {remedy}"

    def test_windows_differ_by_step_and_by_seed(self) -> None:
        if not self.varies:
            pytest.skip(f"{type(self).__name__}: varies = False")
        ctx, other = self.context(5000, 16, seed=3), self.context(5000, 16, seed=4)
        first = self.starts(0, ctx)
        for what, others in (("steps", self.starts(1, ctx)), ("seeds", self.starts(0, other))):
            remedy = "let the windows depend on the step and on ctx.seed, or set varies = False here"
            assert (first != others).any(), f"two {what} give the same windows: {remedy}"

    @pytest.mark.parametrize(("n_tokens", "block_size"), SIZES)
    def test_an_epoch_sees_each_window_once_in_batches_of_any_size(self, n_tokens: int, block_size: int) -> None:
        ctx = self.context(n_tokens, block_size, batch_windows=1)
        n = self.epoch(ctx)
        if n is None or isinstance(self.component, PackedOrder):
            pytest.skip("epoch() returns None, or the windows are made of pieces")
        remedy = "return from epoch() how many windows the text holds"
        least = max(1, n_tokens // block_size - 1)
        assert n >= least, f"an epoch of {n} windows leaves out more than a block of {n_tokens} tokens: {remedy}"
        one_by_one = np.concatenate([self.starts(step, ctx) for step in range(2 * n)])
        for epoch in (one_by_one[:n], one_by_one[n:]):
            apart = (np.diff(np.sort(epoch)) == block_size).all()
            assert apart, f"the windows of an epoch overlap or leave gaps: place them {block_size} tokens apart"
        remedy = "count windows from ctx.first_window on, across the ends of epochs"
        for batch_windows in (5, 12, 2 * n):
            batched = replace(ctx, batch_windows=batch_windows)
            steps = range(2 * n // batch_windows)
            together = np.concatenate([np.array([], np.int64), *(self.starts(step, batched) for step in steps)])
            same = np.array_equal(together, one_by_one[: len(together)])
            assert same, f"batches of {batch_windows} windows give other windows than batches of one: {remedy}"
        first_window = 0
        for step in itertools.count():  # batches of 1, 2, 3, ... windows
            end = first_window + step + 1
            if end > 2 * n:
                break
            growing = replace(ctx, first_window=first_window, batch_windows=step + 1)
            same = np.array_equal(self.component.starts(step, growing), one_by_one[first_window:end])
            assert same, f"batches that grow give other windows than batches of one: {remedy}"
            first_window = end

    def test_batches_of_any_size_are_filled(self) -> None:
        ctx, first_window = self.context(1000, 7), 0
        for step, batch_windows in enumerate((1, 4, 4, 200, 3)):
            now = replace(ctx, first_window=first_window, batch_windows=batch_windows)
            shape = self.component.starts(step, now).shape
            remedy = "steps may have different numbers of windows; return ctx.batch_windows starts"
            assert shape == (batch_windows,), f"step {step} of {batch_windows} windows: {shape}: {remedy}"
            first_window += batch_windows

    def test_a_late_step_takes_no_longer(self) -> None:
        ctx = self.context(10**5, 16, batch_windows=64) if self.reads_tokens else self.context(10**12, 1024, 64)
        seconds = []
        for step in range(LATE_STEP, 32 * LATE_STEP, LATE_STEP):  # far apart, so that none follows another
            began = time.perf_counter()
            self.starts(step, ctx)
            seconds.append(time.perf_counter() - began)
        assert median(seconds) < 1e-3, (
            f"{median(seconds):.6f} s for step {LATE_STEP}: compute it from the step, not from the steps before"
        )
