"""Windows made of pieces: each token where it belongs, against a plain loop, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nanogpt_kit.api import OrderContext, PackedOrder, PackedWindows
from nanogpt_kit.components.order.documents import Documents, packing_of
from nanogpt_kit.core.errors import KitError, RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.data.batches import Batches, Prefetcher
from nanogpt_kit.data.packed import assemble, select_windows
from nanogpt_kit.data.split import Split

BLOCK, WINDOWS = 9, 7
LENGTHS = [3, 8, 1, 20, 5, 5, 2, 9, 4, 13, 7, 1, 6, 18, 2, 3]  # of documents, their ends not counted


def split_of(lengths: list[int] = LENGTHS, has_eot: bool = True) -> Split:
    """Token n of the text is 1000 + n."""
    sizes = np.array(lengths) + has_eot
    tokens = np.arange(1000, 1000 + sizes.sum()).astype(np.uint16)
    return Split(tokens, np.cumsum(sizes) - sizes, has_eot)


def context(split: Split, batch_windows: int = WINDOWS, block_size: int = BLOCK) -> OrderContext:
    return OrderContext(
        n_tokens=len(split.tokens),
        block_size=block_size,
        first_window=0,
        batch_windows=batch_windows,
        seed=3,
        documents=split.document_starts,
        tokens=split.tokens,
        has_eot=split.has_eot,
    )


def plain_windows(packed: PackedWindows, n_windows: int, block_size: int) -> list[list[tuple[int, int, int]]]:
    """(id, target, segment) of each place."""
    windows: list[list[tuple[int, int, int]]] = []
    for row in range(n_windows):
        window: list[tuple[int, int, int]] = []
        mine = [piece for piece in range(len(packed.rows)) if packed.rows[piece] == row]
        for segment, piece in enumerate(mine):
            first = 1000 + int(packed.starts[piece])
            window += [(token, token + 1, segment) for token in range(first, first + int(packed.lengths[piece]))]
        windows.append(window + [(0, -1, len(mine))] * (block_size - len(window)))
    return windows


@given(
    lengths=st.lists(st.integers(1, 25), min_size=1, max_size=20),
    block_size=st.integers(1, 12),
    has_eot=st.booleans(),
    window=st.integers(0, 10**6),
)
def test_each_token_of_a_piece_has_its_place_and_the_rest_is_padding(
    lengths: list[int], block_size: int, has_eot: bool, window: int
) -> None:
    split = split_of([*lengths, 2], has_eot)
    packed = Documents().packed(0, replace(context(split, block_size=block_size), first_window=window))
    arrays = assemble(split, packed, WINDOWS + 2, block_size)  # two more windows, without pieces
    assert np.stack(arrays, axis=-1).tolist() == [
        [list(place) for place in window] for window in plain_windows(packed, WINDOWS + 2, block_size)
    ]


def test_each_document_is_read_from_the_end_of_text_before_it_to_its_own() -> None:
    split = Split(np.array([5, 6, 99, 7, 99, 8, 8, 8, 99], np.uint16), np.array([0, 3, 5]), has_eot=True)
    ctx = context(split, batch_windows=2, block_size=6)
    batch = Batches(split, Documents(), ctx, with_segments=True).at(0)
    found = {
        (tuple(ids[segments == segment].tolist()), tuple(targets[segments == segment].tolist()))
        for ids, targets, segments in zip(batch.ids, batch.targets, batch.segments, strict=True)
        for segment in segments.unique()
    }
    assert {pair for pair in found if -1 not in pair[1]} == {
        ((5, 6), (6, 99)),
        ((99, 7), (7, 99)),
        ((99, 8, 8, 8), (8, 8, 8, 99)),
    }


def test_without_an_end_of_text_each_token_but_the_first_is_a_target_once_an_epoch() -> None:
    split = split_of(has_eot=False)
    ctx = context(split)
    n = packing_of(ctx).n_windows
    batch = Batches(split, Documents(), replace(ctx, batch_windows=n)).at(1)
    assert sorted(batch.targets[batch.targets >= 0].tolist()) == split.tokens[1:].tolist()


@pytest.mark.parametrize("has_eot", [True, False])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 9])
def test_the_ranks_share_the_windows_of_the_batch_and_count_its_tokens(world_size: int, has_eot: bool) -> None:
    split = split_of(has_eot=has_eot)
    options: dict[str, Any] = {"with_segments": True, "world_size": world_size}
    ranks = [Batches(split, Documents(), context(split), rank=rank, **options) for rank in range(world_size)]
    for step in range(6):
        whole = Batches(split, Documents(), context(split), with_segments=True).at(step)
        assert whole.segments is not None
        parts = [rank.at(step) for rank in ranks]
        for name in ("ids", "targets", "segments"):
            joined = torch.cat([getattr(part, name)[: len(part.starts)] for part in parts])
            assert torch.equal(joined, getattr(whole, name))
        assert {part.ids.shape for part in parts} == {(-(-WINDOWS // world_size), BLOCK)}
        counted = sum(int((part.targets >= 0).sum()) for part in parts)  # windows that fill a rank's part count nothing
        assert {part.all_tokens for part in parts} == {whole.all_tokens} == {counted}
        assert np.concatenate([part.starts for part in parts]).tolist() == ranks[0].starts(step).tolist()


def test_prefetched_batches_are_those_of_each_step() -> None:
    split = split_of()
    batches = Batches(split, Documents(), context(split), with_segments=True)
    ahead = Prefetcher(batches, total_steps=9)
    for step in (0, 1, 2, 7, 3, 4):
        found, expected = ahead.at(step), batches.at(step)
        assert torch.equal(found.ids, expected.ids)
        assert torch.equal(found.targets, expected.targets)
        assert found.all_tokens == expected.all_tokens
    assert batches.at(0).segments is not None
    assert Batches(split, Documents(), context(split)).at(0).segments is None


def test_selected_windows_are_counted_from_zero() -> None:
    rows = np.array([0, 0, 1, 2, 2, 3])
    found = select_windows(PackedWindows(np.arange(6), np.ones(6, np.int64), rows), 1, 3)
    assert (found.starts.tolist(), found.rows.tolist()) == ([2, 3, 4], [0, 1, 1])


GOOD: dict[str, list[Any]] = {"starts": [0, 3, 10], "lengths": [3, 4, 9], "rows": [0, 0, 1]}


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"lengths": [3, 4]}, r"the shapes \(\(3,\), \(2,\), \(3,\)\); expected one value of each for each piece"),
        ({"starts": [0.0, 3.0, 10.0]}, "are float64, int64, int64; expected int64"),
        ({"rows": [0, 1, 0]}, r"the rows are \[0 1 0\]; expected ascending ones from 0 to 1, each at least once"),
        ({"rows": [0, 0, 0]}, "expected ascending ones from 0 to 1, each at least once"),
        ({"rows": [0, 1, 2]}, "expected ascending ones from 0 to 1, each at least once"),
        ({"starts": [0, -1, 10]}, "piece 1 has 4 tokens from token -1 on; expected at least 1, of the tokens 0 to 18"),
        ({"starts": [0, 3, 11]}, "piece 2 has 9 tokens from token 11 on; expected at least 1, of the tokens 0 to 18"),
        ({"lengths": [0, 4, 9]}, "piece 0 has 0 tokens from token 0 on; expected at least 1"),
        ({"lengths": [3, 7, 9]}, "the pieces of window 0 have 10 tokens together; expected at most 9"),
    ],
)
def test_wrong_windows_are_refused_with_the_order_and_the_step(changes: dict[str, list[Any]], fault: str) -> None:
    with pytest.raises(RunFailed, match=f"order Mine packed the windows of step 4 wrongly: .*{fault}"):
        batches_of(**GOOD | changes).at(4)


def test_right_windows_are_taken() -> None:
    assert batches_of(**GOOD).at(4).all_tokens == 16


def batches_of(**arrays: list[Any]) -> Batches:
    class Mine(PackedOrder):
        def packed(self, step: int, ctx: OrderContext) -> PackedWindows:
            return PackedWindows(**{name: np.array(value) for name, value in arrays.items()})

    split = split_of([5, 14, 1], has_eot=False)
    return Batches(split, Mine(), context(split, batch_windows=2))


def test_at_documents_is_refused_where_it_does_not_apply(tiny: Any) -> None:
    with pytest.raises(KitError, match=r"order.at_documents: .* Documents makes them of pieces; remove at"):
        Experiment.load(tiny, ["order.use=documents", "order.at_documents=true"])
