"""Each window of a mixture comes from one source, as the order chooses windows on that source alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nanogpt_kit.api import Order, OrderContext, PackedOrder, PackedWindows
from nanogpt_kit.components.order.documents import Documents
from nanogpt_kit.components.order.random import Random
from nanogpt_kit.components.order.sequential import Sequential
from nanogpt_kit.components.order.shuffled import Shuffled
from nanogpt_kit.core.errors import RunFailed
from nanogpt_kit.data.batches import Batches
from nanogpt_kit.data.order_of_sources import order_of_sources
from nanogpt_kit.data.quota import QuotaSequence
from nanogpt_kit.data.split import Source, Split

BLOCK, WINDOWS = 7, 10
SIZES = {"code": 1003, "notes": 211, "logs": 97}
EOT = 999


def make_split() -> Split:
    """Documents of 5, 6, 7, ... tokens; tokens say their source: code 100 to 199, notes 200 to 299, logs 300 to 399."""
    tokens: list[int] = []
    starts, sources = [], []
    for index, (name, size) in enumerate(SIZES.items(), start=1):
        first, first_document = len(tokens), len(starts)
        length = 5
        while len(tokens) - first < size:
            starts.append(len(tokens))
            tokens += [100 * index + (len(tokens) - first + n) % 100 for n in range(length)] + [EOT]
            length += 1
        del tokens[first + size :]
        starts = [start for start in starts if start < len(tokens)]
        sources.append(Source(name, first, size, first_document, len(starts) - first_document))
    return Split(np.array(tokens, np.uint16), np.array(starts), has_eot=True, sources=tuple(sources))


SPLIT = make_split()
QUOTA = QuotaSequence((3, 2, 1))


def context(split: Split, **values: Any) -> OrderContext:
    of_split = {"n_tokens": len(split.tokens), "documents": split.document_starts, "tokens": split.tokens}
    of_step = {"first_window": 0, "batch_windows": WINDOWS}
    return OrderContext(block_size=BLOCK, seed=3, **{**of_split, **of_step, **values})


def batches(order: Order, **ranks: int) -> Batches:
    return Batches(SPLIT, order_of_sources(order, SPLIT, QUOTA), context(SPLIT), with_segments=True, **ranks)


class Pairs(PackedOrder):
    """Two pieces in each window, of 4 and 3 tokens, drawn with replacement."""

    def packed(self, step: int, ctx: OrderContext) -> PackedWindows:
        random = np.random.default_rng([ctx.seed, ctx.first_window])
        rows = np.repeat(np.arange(ctx.batch_windows), 2)
        lengths = np.tile([4, 3], ctx.batch_windows)
        return PackedWindows(random.integers(0, ctx.n_tokens - 5, len(rows)), lengths, rows)


@pytest.mark.parametrize("order", [Shuffled(), Random(), Sequential(), Shuffled(at_documents=True)])
def test_each_window_has_tokens_of_one_source_and_the_proportions_are_exact(order: Order) -> None:
    counts = np.zeros(3)
    for step in range(40):
        batch = batches(order).at(step)
        of_tokens = np.where(batch.ids == EOT, -1, batch.ids // 100 - 1).astype(int)  # (W, T)
        of_targets = np.where(batch.targets == EOT, -1, batch.targets // 100 - 1).astype(int)
        for window in np.hstack([of_tokens, of_targets]):
            (source,) = set(window.tolist()) - {-1}
            counts[source] += 1
            assert (abs(counts - counts.sum() * np.array([3, 2, 1]) / 6) < 1).all()
    assert counts.sum() == 400


@pytest.mark.parametrize("order", [Shuffled(), Sequential(), Shuffled(at_documents=True)])
def test_the_windows_of_a_source_are_those_of_the_order_on_that_source_alone(order: Order) -> None:
    """The second source has every third window, however the windows are batched."""
    ours = np.concatenate([batches(order).at(step).starts for step in range(30)])
    for index, source in enumerate(SPLIT.sources):
        alone = SPLIT.of_source(source)
        mine = ours[QUOTA.of_windows(0, len(ours)) == index] - source.first
        expected = Batches(alone, order, context(alone, batch_windows=1))
        assert mine.tolist() == [int(expected.at(n).starts[0]) for n in range(len(mine))]
        assert set(mine.tolist()) <= set(range(source.n_tokens - BLOCK))


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_windows_of_one_process(world_size: int) -> None:
    one = batches(Shuffled())
    ranks = [batches(Shuffled(), rank=rank, world_size=world_size) for rank in range(world_size)]
    for step in (0, 1, 17):
        assert np.concatenate([rank.at(step).starts for rank in ranks]).tolist() == one.at(step).starts.tolist()


def test_segments_begin_where_documents_begin_within_the_source() -> None:
    """As in a dataset of that source alone: no document of the source before reaches into a window."""
    batch = batches(Sequential()).at(0)
    for start, segments in zip(batch.starts, batch.segments, strict=True):
        (source,) = (one for one in SPLIT.sources if one.first <= start < one.first + one.n_tokens)
        alone = SPLIT.of_source(source).segments(np.array([start - source.first]), BLOCK)
        assert segments.tolist() == alone[0].tolist()


def test_the_pieces_of_a_packed_window_come_from_one_source() -> None:
    """They are those that the order packs for that source alone, at its place."""
    order = order_of_sources(Pairs(), SPLIT, QUOTA)
    assert isinstance(order, PackedOrder)
    for first in (0, 10, 25):
        packed = order.packed(0, context(SPLIT, first_window=first))
        assert (np.diff(packed.rows) >= 0).all()
        assert packed.lengths.tolist() == [4, 3] * WINDOWS
        of_windows = QUOTA.of_windows(first, WINDOWS)
        for index, source in enumerate(SPLIT.sources):
            alone = SPLIT.of_source(source)
            before, windows = QUOTA.windows_before(index, first), np.flatnonzero(of_windows == index)
            expected = Pairs().packed(0, context(alone, first_window=before, batch_windows=len(windows)))
            mine = np.isin(packed.rows, windows)
            assert (packed.starts[mine] - source.first).tolist() == expected.starts.tolist()
            assert np.unique(packed.rows[mine]).tolist() == windows.tolist()


def test_documents_are_packed_with_documents_of_their_source_alone() -> None:
    """And each document of a source once an epoch, as without the others."""
    seen: dict[str, list[int]] = {name: [] for name in SIZES}
    for step in range(60):
        batch = batches(Documents()).at(step)
        for ids, targets, segments in zip(
            batch.ids.numpy(), batch.targets.numpy(), batch.segments.numpy(), strict=True
        ):
            pieces = [ids[(segments == piece) & (targets >= 0)] for piece in range(segments.max() + 1)]
            (source,) = {int(token) // 100 - 1 for piece in pieces for token in piece if token != EOT}
            seen[list(SIZES)[source]].append(len(pieces))
    for source in SPLIT.sources:
        alone = SPLIT.of_source(source)
        windows = len(seen[source.name])
        expected = Batches(alone, Documents(), context(alone, batch_windows=1), with_segments=True)
        assert [int(expected.at(n).segments.max()) + 1 for n in range(windows)] == seen[source.name]


def test_a_piece_outside_its_source_is_refused_although_it_is_in_the_split() -> None:
    class Long(Pairs):
        def packed(self, step: int, ctx: OrderContext) -> PackedWindows:
            rows = np.arange(ctx.batch_windows)
            return PackedWindows(np.full_like(rows, 95), np.full_like(rows, 4), rows)

    with pytest.raises(RunFailed, match=r"Long packed .* of step 0 and the source 'logs' wrongly: .* from token 95"):
        batches(Long()).at(0)


def test_an_order_is_asked_for_the_tokens_and_documents_of_one_source() -> None:
    asked = []

    class Spy(Sequential):
        def starts(self, step: int, ctx: OrderContext) -> np.ndarray:
            asked.append(ctx)
            return super().starts(step, ctx)

    batches(Spy()).starts(2)
    assert [ctx.n_tokens for ctx in asked] == list(SIZES.values())
    before, after = ([QUOTA.windows_before(source, n) for source in range(3)] for n in (20, 30))
    assert [ctx.first_window for ctx in asked] == before
    assert [ctx.batch_windows for ctx in asked] == [b - a for a, b in zip(before, after, strict=True)]
    for ctx, hundred in zip(asked, (100, 200, 300), strict=True):
        assert set((ctx.tokens[ctx.tokens != EOT] // 100 * 100).tolist()) == {hundred}
        assert ctx.documents[0] == 0
        assert ctx.documents[-1] < ctx.n_tokens


def test_a_start_outside_its_source_is_refused_although_it_is_in_the_split() -> None:
    class Late(Sequential):
        def starts(self, step: int, ctx: OrderContext) -> np.ndarray:
            return np.full(ctx.batch_windows, 90)

    with pytest.raises(
        RunFailed,
        match=r"order Late returned starts .* for step 0 and the source 'logs'; expected . starts from 0 to 89",
    ):
        batches(Late()).starts(0)


def test_a_split_without_sources_keeps_its_order() -> None:
    order = Shuffled()
    assert order_of_sources(order, replace(SPLIT, sources=()), None) is order
