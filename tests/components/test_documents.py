"""The order `documents`: best fit, every document once an epoch and none cut that fits, each against a plain loop."""

from __future__ import annotations

import gc
import time
from dataclasses import replace
from itertools import pairwise
from statistics import median

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt_kit.api import OrderContext, PackedWindows
from nanogpt_kit.components.order.best_fit import best_fit_decreasing
from nanogpt_kit.components.order.documents import Documents, packing_of
from nanogpt_kit.components.order.permutation import ROUNDS, permute_each
from nanogpt_kit.core import array_cache
from nanogpt_kit.testing.order import OrderConformance


class TestDocuments(OrderConformance):
    component = Documents()

    def epoch(self, ctx: OrderContext) -> int:
        return packing_of(ctx).n_windows


def context(
    lengths: list[int], block_size: int, has_eot: bool = True, batch_windows: int = 1, seed: int = 3
) -> OrderContext:
    """Documents of some tokens each, their ends not counted."""
    sizes = np.array(lengths) + has_eot
    return OrderContext(
        n_tokens=int(sizes.sum()),
        block_size=block_size,
        first_window=0,
        batch_windows=batch_windows,
        seed=seed,
        documents=np.cumsum(sizes) - sizes,
        has_eot=has_eot,
    )


def epoch(ctx: OrderContext, number: int = 0) -> PackedWindows:
    """All windows of an epoch."""
    n = packing_of(ctx).n_windows
    return Documents().packed(0, replace(ctx, first_window=number * n, batch_windows=n))


def plain_pieces(ctx: OrderContext) -> list[tuple[int, int]]:
    """Start and length of each piece, document by document."""
    assert ctx.documents is not None
    opens = [max(0, int(first) - ctx.has_eot) for first in ctx.documents] + [ctx.n_tokens - 1]
    pieces = []
    for start, end in pairwise(opens):
        pieces += [(first, min(first + ctx.block_size, end) - first) for first in range(start, end, ctx.block_size)]
    return pieces


def plain_best_fit(lengths: list[int], capacity: int) -> list[list[int]]:
    """Piece by piece: each to the fullest window that has room."""
    windows: list[list[int]] = []
    for length in sorted(lengths, reverse=True):
        fitting = [window for window in windows if sum(window) + length <= capacity]
        if fitting:
            max(fitting, key=sum).append(length)
        else:
            windows.append([length])
    return windows


lengths = st.lists(st.integers(0, 40), min_size=1, max_size=40)  # 0 is an end-of-text token alone


@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=60), capacity=st.integers(20, 30))
def test_best_fit_by_counts_packs_as_best_fit_piece_by_piece(lengths: list[int], capacity: int) -> None:
    counts = [lengths.count(length) for length in range(capacity + 1)]
    found = [pattern.lengths() for pattern, n in best_fit_decreasing(counts, capacity) for _ in range(n)]
    expected = plain_best_fit(lengths, capacity)
    assert sorted(map(sum, found)) == sorted(map(sum, expected))
    assert sorted(length for window in found for length in window) == sorted(lengths)


def test_equal_windows_are_packed_at_once() -> None:
    began = time.perf_counter()
    (pattern, n), *rest = best_fit_decreasing([0, 0, 10**12, 0, 0, 10**12, 0, 0], 7)
    assert (pattern.lengths(), n, rest) == ([2, 5], 10**12, [])
    assert time.perf_counter() - began < 0.1


@given(lengths=lengths, block_size=st.integers(1, 30), has_eot=st.booleans(), seed=st.integers(0, 2**63 - 1))
def test_every_document_is_there_once_an_epoch_and_none_is_cut_that_fits(
    lengths: list[int], block_size: int, has_eot: bool, seed: int
) -> None:
    ctx = context([*lengths, 2], block_size, has_eot, seed=seed)
    for number in range(3):
        packed = epoch(ctx, number)
        found = sorted(zip(packed.starts.tolist(), packed.lengths.tolist(), strict=True))
        assert found == plain_pieces(ctx)
        sums = np.bincount(packed.rows, weights=packed.lengths)
        assert sorted(sums.tolist()) == sorted(
            map(sum, plain_best_fit([length for _, length in found], ctx.block_size))
        )


@pytest.mark.parametrize("batch_windows", [1, 5, 8, 70])
def test_batches_of_any_size_are_the_windows_of_the_epochs_in_turn(batch_windows: int) -> None:
    ctx = context([7, 3, 12, 1, 5, 5, 9, 30, 2, 2, 14, 8] * 4, block_size=13, batch_windows=batch_windows)
    n = packing_of(ctx).n_windows
    expected = [windows for number in range(4) for windows in as_lists(epoch(ctx, number))]
    found = []
    for step in range(-(-3 * n // batch_windows)):
        found += as_lists(Documents().packed(step, replace(ctx, first_window=step * batch_windows)))
    assert found[: 3 * n] == expected[: 3 * n]


def as_lists(packed: PackedWindows) -> list[list[tuple[int, int]]]:
    windows: list[list[tuple[int, int]]] = [[] for _ in range(int(packed.rows.max()) + 1)]
    for start, length, row in zip(packed.starts, packed.lengths, packed.rows, strict=True):
        windows[row].append((int(start), int(length)))
    return windows


def test_each_epoch_has_other_neighbours_another_order_and_other_places() -> None:
    """300 documents of 10 tokens, and 300 of 20, which fill a window of 30 together."""
    ctx = context([9] * 300 + [19] * 300 + [5], block_size=30)
    epochs = [as_lists(epoch(ctx, number)) for number in range(4)]
    neighbours = [{frozenset(window) for window in windows if len(window) == 2} for windows in epochs]
    for index, pairs in enumerate(neighbours):
        assert all(len(pairs & other) < 10 for other in neighbours[:index])
        assert 100 < sum(window[0][1] == 10 for window in epochs[index]) < 200  # the shorter one may come first
    firsts = [[min(window) for window in windows] for windows in epochs]
    assert np.abs(np.corrcoef([[start for start, _ in first[:300]] for first in firsts]) - np.eye(4)).max() < 0.25


def test_lengths_with_as_many_documents_are_distributed_independently() -> None:
    """Two documents of each of two lengths that share windows: in half of the epochs the first ones meet."""
    ctx = context([9, 9, 19, 19, 100], block_size=30)
    together = [any({0, 19} <= {s for s, _ in window} for window in as_lists(epoch(ctx, n))) for n in range(200)]
    assert 60 < sum(together) < 140


def test_a_text_without_boundaries_is_one_document() -> None:
    ctx = OrderContext(n_tokens=24, block_size=7, first_window=0, batch_windows=4, seed=1)
    packed = epoch(ctx)
    assert sorted(zip(packed.starts.tolist(), packed.lengths.tolist(), strict=True)) == [
        (0, 7),
        (7, 7),
        (14, 7),
        (21, 2),
    ]


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6), seed=st.integers(0, 2**32))
def test_each_size_has_its_own_permutation(sizes: list[int], seed: int) -> None:
    indices = np.concatenate([np.arange(size) for size in sizes])
    keys = np.random.default_rng(seed).integers(0, 2**63, (ROUNDS, len(sizes)), dtype=np.uint64)
    images = permute_each(indices, np.repeat(sizes, sizes), np.repeat(keys, sizes, axis=1))
    for part, size in zip(np.split(images, np.cumsum(sizes)[:-1]), sizes, strict=True):
        assert sorted(part.tolist()) == list(range(size))


def test_a_packing_is_made_once_and_forgotten_with_its_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_cache, "results", {})
    ctx = context([7, 3, 12] * 5, block_size=13)
    assert packing_of(ctx) is packing_of(replace(ctx, first_window=9, batch_windows=4))
    assert packing_of(ctx) is not packing_of(replace(ctx, block_size=12))
    assert len(array_cache.results) == 2
    del ctx
    gc.collect()
    assert not array_cache.results


def test_a_million_documents_are_packed_in_a_second_and_a_step_takes_milliseconds() -> None:
    sizes = np.random.default_rng(0).lognormal(6.3, 1.1, 10**6).astype(np.int64) + 2
    ctx = OrderContext(
        n_tokens=int(sizes.sum()),
        block_size=1024,
        first_window=0,
        batch_windows=64,
        seed=3,
        documents=np.cumsum(sizes) - sizes,
        has_eot=True,
    )
    began = time.perf_counter()
    n_windows = packing_of(ctx).n_windows
    assert time.perf_counter() - began < 3  # 0.3 s on an idle core
    assert 1 - (ctx.n_tokens - 1) / (n_windows * 1024) < 1e-3  # padding
    seconds = []
    for window in range(0, 10**9, 5 * 10**7):
        began = time.perf_counter()
        Documents().packed(0, replace(ctx, first_window=window))
        seconds.append(time.perf_counter() - began)
    assert median(seconds) < 5e-3
