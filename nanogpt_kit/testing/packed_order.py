"""The part of the suite for orders that is about pieces: skipped by orders whose windows are consecutive tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from nanogpt_kit.core.kinds import Order, OrderContext, PackedOrder, PackedWindows
from nanogpt_kit.data.packed import packing_fault
from nanogpt_kit.testing.component import ComponentConformance

DOCUMENT_LENGTHS = [1, 30, 2, 17, 16, 1, 5, 40, 3, 9, 8, 4, 4, 33, 12]  # of documents, some longer than a window of 16


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

    def document_context(self, has_eot: bool, batch_windows: int = 11) -> OrderContext:
        """That of step 0, with documents of different lengths and a block_size of 16."""
        lengths = np.tile(DOCUMENT_LENGTHS, 5)
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

    def test_pieces_fit_into_their_windows(self) -> None:
        for has_eot in (True, False):
            ctx = self.document_context(has_eot)
            for step in (0, 1, 29, 10**6):
                fault = packing_fault(self.packed(step, ctx), ctx)
                assert fault is None, f"step {step}, has_eot = {has_eot}: {fault}: see PackedOrder.packed"

    def test_a_piece_lies_within_one_document(self) -> None:
        for has_eot in (True, False):
            ctx = self.document_context(has_eot)
            assert ctx.documents is not None
            opens = np.maximum(ctx.documents - has_eot, 0)
            for step in range(20):
                packed = self.packed(step, ctx)
                ends = packed.starts + packed.lengths - 1
                same = opens.searchsorted(packed.starts, "right") == opens.searchsorted(ends, "right")
                remedy = (
                    "a document opens with the end-of-text token before it, if there is one, else with its first token"
                )
                assert same.all(), f"step {step}, has_eot = {has_eot}: a piece has tokens of two documents: {remedy}"

    def test_the_same_step_always_gives_the_same_pieces(self) -> None:
        ctx = self.document_context(has_eot=True)
        before = [array.copy() for array in vars(self.packed(29, ctx)).values()]
        self.packed(3, ctx)
        again = vars(self.packed(29, self.document_context(has_eot=True))).values()  # as a resumed run has it
        same = all(np.array_equal(*arrays) for arrays in zip(before, again, strict=True))
        remedy = "let them follow from the context and the step alone; keep nothing that a call changes"
        assert same, f"step 29 gives other pieces the second time: {remedy}"

    def test_no_token_is_in_an_epoch_twice(self) -> None:
        order = self.packed_order
        for has_eot in (True, False):
            ctx = self.document_context(has_eot, batch_windows=1)
            n = self.epoch(ctx)
            if n is None:
                pytest.skip("epoch() returns None")
            for first in (0, n):
                epoch = order.packed(first, replace(ctx, first_window=first, batch_windows=n))
                most = np.bincount(indices_of_tokens(epoch)).max()
                remedy = "return from epoch() the windows after which documents are used again"
                assert most == 1, f"a token is in the {n} windows from window {first} on {most} times: {remedy}"
                windows = [order.packed(index, replace(ctx, first_window=index)) for index in range(first, first + n)]
                same = np.array_equal(np.concatenate([window.starts for window in windows]), epoch.starts)
                remedy = "count windows from ctx.first_window on, across the ends of epochs"
                assert same, f"a batch of {n} windows has other pieces than batches of one: {remedy}"


def indices_of_tokens(packed: PackedWindows) -> np.ndarray:
    """(n,) int64: the index in the text of each token of the windows."""
    before = np.cumsum(packed.lengths) - packed.lengths
    return np.repeat(packed.starts - before, packed.lengths) + np.arange(packed.lengths.sum())
