"""The part of the suite for orders that is about pieces: skipped by orders whose windows are consecutive tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from nanogpt_kit.core.kinds import Order, OrderContext, PackedOrder, PackedWindows
from nanogpt_kit.data.packed import packing_fault
from nanogpt_kit.testing.component import ComponentConformance

LENGTHS = [1, 30, 2, 17, 16, 1, 5, 40, 3, 9, 8, 4, 4, 33, 12]  # of documents, some longer than a window of 16


class PackedOrderConformance(ComponentConformance):
    component: ClassVar[Order]
    varies: ClassVar[bool]

    def epoch(self, ctx: OrderContext) -> int | None:
        raise NotImplementedError

    @property
    def packed_order(self) -> PackedOrder:
        if not isinstance(self.component, PackedOrder):
            pytest.skip(f"{type(self.component).__name__} is not a PackedOrder")
        return self.component

    def document_context(self, has_eot: bool, batch_windows: int = 11, copies: int = 5) -> OrderContext:
        """Documents of different lengths; the last of them is longer than a window."""
        lengths = np.tile(LENGTHS, copies)
        n_tokens = int(lengths.sum())
        return OrderContext(
            n_tokens=n_tokens,
            block_size=16,
            first_window=0,
            batch_windows=batch_windows,
            seed=3,
            documents=np.cumsum(lengths) - lengths,
            tokens=np.random.default_rng(1).integers(0, 50, n_tokens, dtype=np.uint16),
            has_eot=has_eot,
        )

    def packed(self, step: int, ctx: OrderContext) -> PackedWindows:
        """The windows of a step where all steps have `ctx.batch_windows`."""
        return self.packed_order.packed(step, replace(ctx, first_window=step * ctx.batch_windows))

    @pytest.mark.parametrize("has_eot", [True, False])
    @pytest.mark.parametrize("step", [0, 1, 29, 10**6])
    def test_pieces_fit_into_their_windows(self, step: int, has_eot: bool) -> None:
        ctx = self.document_context(has_eot)
        fault = packing_fault(self.packed(step, ctx), ctx)
        assert fault is None, f"step {step}: {fault}: return what PackedOrder.packed describes"

    @pytest.mark.parametrize("has_eot", [True, False])
    def test_a_piece_lies_within_one_document(self, has_eot: bool) -> None:
        ctx = self.document_context(has_eot)
        assert ctx.documents is not None
        opens = np.maximum(ctx.documents - has_eot, 0)
        for step in range(20):
            packed = self.packed(step, ctx)
            first, last = (opens.searchsorted(at, "right") for at in (packed.starts, packed.starts + packed.lengths - 1))
            assert (first == last).all(), (
                f"step {step}: a piece has tokens of two documents with has_eot = {has_eot}: "
                "a document opens with the end-of-text token before it, if there is one, else with its first token"
            )

    def test_the_same_step_always_gives_the_same_pieces(self) -> None:
        ctx = self.document_context(has_eot=True)
        before = self.packed(29, ctx)
        before = replace(before, starts=before.starts.copy(), lengths=before.lengths.copy())
        self.packed(3, ctx)
        again = self.packed(29, replace(ctx, documents=ctx.documents.copy() if ctx.documents is not None else None))
        same = np.array_equal(again.starts, before.starts) and np.array_equal(again.lengths, before.lengths)
        remedy = "let them follow from the step and the context alone; keep nothing that a call changes"
        assert same, f"step 29 gives other pieces the second time: {remedy}"

    @pytest.mark.parametrize("has_eot", [True, False])
    def test_no_token_is_in_an_epoch_twice(self, has_eot: bool) -> None:
        order, ctx = self.packed_order, self.document_context(has_eot, batch_windows=1)
        n = self.epoch(ctx)
        if n is None:
            pytest.skip("epoch() returns None")
        for first in (0, n):
            epoch = order.packed(first, replace(ctx, first_window=first, batch_windows=n))
            once = np.bincount(places_of(epoch), minlength=ctx.n_tokens).max() == 1
            remedy = "return from epoch() the windows after which documents are used again"
            assert once, f"a token is in the {n} windows from window {first} on twice: {remedy}"
            one_by_one = [order.packed(w, replace(ctx, first_window=w)).starts for w in range(first, first + n)]
            remedy = "count windows from ctx.first_window on, across the ends of epochs"
            same = np.array_equal(np.concatenate(one_by_one), epoch.starts)
            assert same, f"a batch of {n} windows has other pieces than batches of one: {remedy}"


def places_of(packed: PackedWindows) -> np.ndarray:
    """(n,) int64: the index in the text of each token of the windows."""
    before = np.cumsum(packed.lengths) - packed.lengths
    return np.repeat(packed.starts - before, packed.lengths) + np.arange(packed.lengths.sum())
