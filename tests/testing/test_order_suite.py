"""The suite for orders fails where an order is broken: each break is seen by the test beside it."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nanogpt_kit.api import Order, OrderContext, PackedWindows
from nanogpt_kit.components.order.documents import Documents, packing_of
from nanogpt_kit.components.order.sequential import Sequential
from nanogpt_kit.components.order.shuffled import Shuffled, epoch_windows
from nanogpt_kit.testing.order import OrderConformance
from tests.testing.remedies import assert_fails


class Broken(Shuffled):
    """In the way that `how` says."""

    how: str = "not"

    def starts(self, step: int, ctx: OrderContext) -> np.ndarray:
        starts = super().starts(step, ctx)
        if self.how == "too late":
            return starts + 2 * ctx.block_size
        if self.how == "by global chance":
            return np.random.permutation(starts)
        if self.how == "never another":
            return super().starts(0, replace(ctx, first_window=0, seed=0))
        if self.how == "by equal batches":
            return super().starts(step, replace(ctx, first_window=step * ctx.batch_windows))
        if self.how == "always eleven":
            return super().starts(step, replace(ctx, batch_windows=11))
        if self.how == "one twice":
            starts[1:2] = starts[:1]
        if self.how == "slow":
            time.sleep(0.002)
        if self.how == "half":
            return starts // (2 * ctx.block_size) * ctx.block_size
        return starts


CAUGHT = {
    "too late": ("test_each_window_and_its_next_token_lie_in_the_text", 49, 16, 1),
    "by global chance": ("test_the_same_step_always_gives_the_same_windows",),
    "never another": ("test_windows_differ_by_step_and_by_seed",),
    "one twice": ("test_an_epoch_sees_each_window_once_in_batches_of_any_size", 1000, 7),
    "half": ("test_an_epoch_sees_each_window_once_in_batches_of_any_size", 4111, 16),
    "by equal batches": ("test_an_epoch_sees_each_window_once_in_batches_of_any_size", 1000, 7),
    "always eleven": ("test_batches_of_any_size_are_filled",),
    "slow": ("test_a_late_step_takes_no_longer",),
}


def suite(component: Order) -> Any:
    parts = {"component": component, "epoch": lambda _, ctx: epoch_windows(ctx.n_tokens, ctx.block_size)}
    return type("Suite", (OrderConformance,), parts)()


@pytest.mark.parametrize("how", CAUGHT)
def test_a_broken_order_is_caught(how: str) -> None:
    test, *arguments = CAUGHT[how]
    getattr(suite(Shuffled()), test)(*arguments)
    assert_fails(suite(Broken(how=how)), test, *arguments)


def test_an_order_without_variety_is_caught() -> None:
    assert_fails(suite(Sequential()), "test_windows_differ_by_step_and_by_seed")


class BrokenDocuments(Documents):
    how: str = "not"

    def packed(self, step: int, ctx: OrderContext) -> PackedWindows:
        if self.how == "opens with its first token":
            ctx = replace(ctx, has_eot=False)
        if self.how == "by step":
            ctx = replace(ctx, first_window=step * ctx.batch_windows)
        if self.how == "drawn":
            ctx = replace(ctx, seed=int(np.random.default_rng().integers(2**32)))
        found = super().packed(step, ctx)
        if self.how == "one too long":
            return PackedWindows(found.starts, np.full_like(found.lengths, 16), found.rows)
        return found


PACKED = {
    "one too long": ("test_pieces_fit_into_their_windows",),
    "opens with its first token": ("test_a_piece_lies_within_one_document",),
    "drawn": ("test_the_same_step_always_gives_the_same_pieces",),
    "by step": ("test_no_token_is_in_an_epoch_twice",),
}


def packed_suite(component: Order, epochs: int = 1) -> Any:
    parts = {"component": component, "epoch": lambda _, ctx: packing_of(ctx).n_windows * epochs}
    return type("Suite", (OrderConformance,), parts)()


@pytest.mark.parametrize("how", PACKED)
def test_a_broken_packed_order_is_caught(how: str) -> None:
    (test,) = PACKED[how]
    getattr(packed_suite(Documents()), test)()
    assert_fails(packed_suite(BrokenDocuments(how=how)), test)


def test_a_document_that_is_there_twice_is_caught() -> None:
    assert_fails(packed_suite(Documents(), epochs=2), "test_no_token_is_in_an_epoch_twice")
