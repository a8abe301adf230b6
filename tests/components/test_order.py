"""Orders: the suite for each of them; `shuffled` permutes, `random` reaches everywhere, `sequential` follows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt_kit.api import Order, OrderContext
from nanogpt_kit.components.order.random import Random
from nanogpt_kit.components.order.sequential import Sequential
from nanogpt_kit.components.order.shuffled import Shuffled
from nanogpt_kit.testing.order import OrderConformance

ORDERS = (Random(), Shuffled(), Sequential())


class TestRandom(OrderConformance):
    component = Random()


class TestShuffled(OrderConformance):
    component = Shuffled()

    def epoch(self, ctx: OrderContext) -> int:
        return max(1, ctx.n_tokens // ctx.block_size - 1)


class TestSequential(OrderConformance):
    component = Sequential()
    varies = False

    def epoch(self, ctx: OrderContext) -> int:
        return (ctx.n_tokens - 1) // ctx.block_size


def context(n_tokens: int, block_size: int, batch_windows: int, seed: int = 3, step: int = 0) -> OrderContext:
    return OrderContext(
        n_tokens=n_tokens,
        block_size=block_size,
        first_window=step * batch_windows,
        batch_windows=batch_windows,
        seed=seed,
    )


def first_windows(ctx: OrderContext, count: int) -> np.ndarray:
    """The first `count` windows, whatever batches they come in."""
    steps = -(-count // ctx.batch_windows)
    contexts = (replace(ctx, first_window=step * ctx.batch_windows) for step in range(steps))
    return np.concatenate([Shuffled().starts(step, at) for step, at in enumerate(contexts)])[:count]


@pytest.mark.parametrize("batch_windows", [1, 7, 50])
@pytest.mark.parametrize("n_tokens", [17, 31, 32, 33, 47, 48, 49, 160, 1000, 4111, 16_384])
def test_every_window_is_seen_once_an_epoch(n_tokens: int, batch_windows: int) -> None:
    block_size = 16
    ctx = context(n_tokens, block_size, batch_windows)
    n = max(1, n_tokens // block_size - 1)
    for epoch in np.split(first_windows(ctx, 3 * n), 3):  # batches of 7 and 50 straddle them
        ordered = np.sort(epoch)
        shift = ordered[0]
        assert 0 <= shift < 2 * block_size
        np.testing.assert_array_equal(ordered, np.arange(n) * block_size + shift)


def test_the_next_epoch_is_another_order_and_another_cut() -> None:
    ctx = context(n_tokens=16 * 101, block_size=16, batch_windows=10)  # 100 windows
    epochs = np.split(first_windows(ctx, 800), 8)
    assert len({tuple(epoch // 16) for epoch in epochs}) == 8
    assert len({int(epoch.min()) for epoch in epochs}) > 4
    assert (np.diff(epochs[0]) == 16).sum() < 10  # neighbours in the text are rarely neighbours here


def test_a_shuffle_does_not_follow_the_text() -> None:
    n = 1000
    ctx = context(n_tokens=8 * (n + 1), block_size=8, batch_windows=n)
    correlation = np.corrcoef(Shuffled().starts(0, ctx), np.arange(n))[0, 1]
    assert abs(correlation) < 4 / n**0.5


@pytest.mark.parametrize("order", ORDERS)
@given(
    spare=st.integers(1, 5000),
    block_size=st.integers(1, 70),
    batch_windows=st.integers(1, 40),
    step=st.integers(0, 10**9),
    seed=st.integers(0, 2**63 - 1),
)
def test_a_window_and_its_next_token_lie_in_the_text(
    order: Order, spare: int, block_size: int, batch_windows: int, step: int, seed: int
) -> None:
    ctx = context(block_size + spare, block_size, batch_windows, seed, step)
    starts = order.starts(step, ctx)
    assert starts.shape == (batch_windows,)
    assert starts.min() >= 0
    assert (starts + block_size + 1).max() <= ctx.n_tokens


def test_random_windows_reach_both_ends_of_the_text() -> None:
    starts = Random().starts(0, context(n_tokens=20, block_size=16, batch_windows=200))
    assert set(starts) == {0, 1, 2, 3}


def test_sequential_windows_follow_each_other_and_begin_again() -> None:
    contexts = [context(n_tokens=50, block_size=16, batch_windows=2, step=step) for step in range(3)]
    starts = [Sequential().starts(step, ctx).tolist() for step, ctx in enumerate(contexts)]
    assert starts == [[0, 16], [32, 0], [16, 32]]
    assert Sequential().starts(0, context(n_tokens=49, block_size=16, batch_windows=4)).tolist() == [0, 16, 32, 0]
    assert Sequential().starts(0, context(n_tokens=48, block_size=16, batch_windows=3)).tolist() == [0, 16, 0]
