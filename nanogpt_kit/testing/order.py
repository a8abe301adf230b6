"""The suite for orders: pure functions of the step, within the text, as fast for late steps as for early ones."""

from __future__ import annotations

import time
from dataclasses import replace
from statistics import median
from typing import ClassVar

import numpy as np
import pytest

from nanogpt_kit.core.kinds import Order, OrderContext
from nanogpt_kit.testing.component import ComponentConformance

SIZES = [(17, 16), (33, 16), (49, 16), (50, 1), (1000, 7), (4111, 16)]  # (n_tokens, block_size), down to one window
LATE_STEP = 10**6  # too late to get there step by step


class OrderConformance(ComponentConformance):
    """Subclass it with `component = MyOrder(...)`; set `varies = False` if steps and seeds need not differ."""

    component: ClassVar[Order]
    varies: ClassVar[bool] = True

    def epoch(self, ctx: OrderContext) -> int | None:
        """Windows of an epoch, for an order that cuts the text into windows and uses each once; None for others."""
        return None

    def context(self, n_tokens: int, block_size: int, batch_windows: int = 11, seed: int = 3) -> OrderContext:
        documents = np.arange(0, n_tokens, max(1, n_tokens // 10))
        return OrderContext(
            n_tokens=n_tokens, block_size=block_size, batch_windows=batch_windows, seed=seed, documents=documents
        )

    @pytest.mark.parametrize(("n_tokens", "block_size"), SIZES)
    @pytest.mark.parametrize("step", [0, 1, 29, LATE_STEP])
    def test_each_window_and_its_next_token_lie_in_the_text(self, n_tokens: int, block_size: int, step: int) -> None:
        starts = self.component.starts(step, self.context(n_tokens, block_size))
        assert starts.shape == (11,)
        assert starts.dtype == np.int64
        assert starts.min() >= 0
        assert (starts + block_size + 1).max() <= n_tokens

    def test_the_same_step_always_gives_the_same_windows(self) -> None:
        ctx = self.context(5000, 16)
        np.random.seed(1)
        before = self.component.starts(29, ctx).copy()
        self.component.starts(3, ctx)
        np.random.seed(2)
        np.testing.assert_array_equal(self.component.starts(29, ctx), before)

    def test_windows_differ_by_step_and_by_seed(self) -> None:
        if not self.varies:
            pytest.skip("varies = False")
        ctx, other = self.context(5000, 16, seed=3), self.context(5000, 16, seed=4)
        assert (self.component.starts(0, ctx) != self.component.starts(1, ctx)).any()
        assert (self.component.starts(0, ctx) != self.component.starts(0, other)).any()

    @pytest.mark.parametrize(("n_tokens", "block_size"), SIZES)
    def test_an_epoch_sees_each_window_once_in_batches_of_any_size(self, n_tokens: int, block_size: int) -> None:
        ctx = self.context(n_tokens, block_size, batch_windows=1)
        n = self.epoch(ctx)
        if n is None:
            pytest.skip("epoch() returns None")
        assert n >= max(1, n_tokens // block_size - 1), f"an epoch of {n} windows leaves out more than a block"
        one_by_one = np.concatenate([self.component.starts(step, ctx) for step in range(2 * n)])
        for epoch in (one_by_one[:n], one_by_one[n:]):
            assert (np.diff(np.sort(epoch)) == block_size).all(), "the windows of an epoch overlap or leave gaps"
        for batch_windows in (5, 12, 2 * n):
            batched = replace(ctx, batch_windows=batch_windows)
            steps = range(2 * n // batch_windows)
            together = np.concatenate([np.array([], np.int64), *(self.component.starts(s, batched) for s in steps)])
            np.testing.assert_array_equal(together, one_by_one[: len(together)])

    def test_a_late_step_takes_no_longer(self) -> None:
        ctx = self.context(10**12, 1024, batch_windows=64)
        seconds = []
        for step in range(LATE_STEP, 32 * LATE_STEP, LATE_STEP):  # far apart, so that none follows another
            began = time.perf_counter()
            self.component.starts(step, ctx)
            seconds.append(time.perf_counter() - began)
        assert median(seconds) < 1e-3, (
            f"{median(seconds):.6f} s for step {LATE_STEP}: compute it from the step, not from the steps before"
        )
