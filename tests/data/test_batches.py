"""Batches: the very tokens of the split, each where it belongs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch

from nanogpt_kit.api import Order, OrderContext, Schedule
from nanogpt_kit.components.order.random import Random
from nanogpt_kit.components.order.sequential import Sequential
from nanogpt_kit.components.order.shuffled import Shuffled
from nanogpt_kit.core.errors import RunFailed
from nanogpt_kit.core.step_plan import StepPlan
from nanogpt_kit.data import batches as batches_module
from nanogpt_kit.data.batches import Batch, Batches, Prefetcher, evaluation_batches
from nanogpt_kit.data.split import Split

BLOCK, WINDOWS = 5, 7


def on_disk(tmp_path: Path, tokens: np.ndarray) -> np.ndarray:
    """As prepared data is read: a memory map that cannot be written to."""
    tokens.tofile(tmp_path / "train.bin")
    return np.memmap(tmp_path / "train.bin", dtype=tokens.dtype, mode="r")


@pytest.fixture(params=[np.uint16, np.uint32])
def tokens(request: pytest.FixtureRequest, tmp_path: Path) -> np.ndarray:
    highest = np.iinfo(request.param).max
    drawn = np.random.default_rng(1).integers(0, highest, 211, dtype=request.param, endpoint=True)
    drawn[::9] = highest
    return on_disk(tmp_path, drawn)


def split_of(tokens: np.ndarray, documents: tuple[int, ...] = (0,), has_eot: bool = False) -> Split:
    return Split(tokens, np.array(documents, dtype=np.int64), has_eot)


@pytest.fixture
def batches(tokens: np.ndarray) -> Batches:
    ctx = OrderContext(first_window=0, n_tokens=len(tokens), block_size=BLOCK, batch_windows=WINDOWS, seed=3)
    return Batches(split_of(tokens), Shuffled(), ctx)


@pytest.mark.parametrize("step", [0, 1, 40])
def test_targets_are_the_next_tokens(batches: Batches, tokens: np.ndarray, step: int) -> None:
    batch = batches.at(step)
    raw = tokens.tolist()
    assert batch.ids.tolist() == [raw[start : start + BLOCK] for start in batch.starts]
    assert batch.targets.tolist() == [raw[start + 1 : start + BLOCK + 1] for start in batch.starts]
    assert batch.ids.dtype == batch.targets.dtype == torch.int64
    assert batch.all_tokens == WINDOWS * BLOCK


def test_a_batch_follows_from_its_step_alone(batches: Batches, tokens: np.ndarray) -> None:
    later = batches.at(9)
    batches.at(2)
    again = Batches(split_of(tokens), batches.order, batches.ctx).at(9)
    assert torch.equal(later.ids, again.ids)
    assert not torch.equal(later.ids, batches.at(10).ids)


def test_the_order_decides_the_windows(batches: Batches, tokens: np.ndarray) -> None:
    drawn = Batches(split_of(tokens), Random(), batches.ctx).at(4)
    np.testing.assert_array_equal(drawn.starts, Random().starts(4, batches.ctx))
    np.testing.assert_array_equal(drawn.ids[:, 0], tokens[drawn.starts])


@pytest.mark.parametrize(("size", "lengths"), [(1, [1] * 7), (3, [3, 3, 1]), (4, [4, 3]), (7, [7]), (9, [7])])
def test_micro_batches_are_the_parts_of_the_batch(batches: Batches, size: int, lengths: list[int]) -> None:
    batch = batches.at(0)
    pieces = batch.micro_batches(size)
    assert [len(ids) for ids, _, _ in pieces] == lengths
    assert torch.equal(torch.cat([ids for ids, _, _ in pieces]), batch.ids)
    assert torch.equal(torch.cat([targets for _, targets, _ in pieces]), batch.targets)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize(
    ("n_tokens", "block_size"), [(2, 5), (5, 5), (6, 5), (7, 5), (11, 5), (100, 7), (99, 7), (106, 7), (64, 1)]
)
def test_every_token_but_the_first_is_a_target_once(n_tokens: int, block_size: int, batch_size: int) -> None:
    tokens = np.arange(1000, 1000 + n_tokens, dtype=np.uint16)
    batches = list(evaluation_batches(split_of(tokens), block_size, batch_size))
    targets = torch.cat([batch.targets for batch in batches]).flatten().tolist()
    n_windows = -(-(n_tokens - 1) // block_size)
    assert targets == [*range(1001, 1000 + n_tokens), *[-1] * (n_windows * block_size - (n_tokens - 1))]
    assert sum(batch.all_tokens for batch in batches) == n_tokens - 1
    assert [len(batch.ids) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert 1 <= len(batches[-1].ids) <= batch_size


def test_each_target_of_a_whole_split_follows_its_own_id(tokens: np.ndarray) -> None:
    raw = tokens.tolist()
    for batch in evaluation_batches(split_of(tokens), block_size=8, batch_size=4):
        assert batch.ids.dtype == batch.targets.dtype == torch.int64
        for start, ids, targets in zip(batch.starts, batch.ids.tolist(), batch.targets.tolist(), strict=True):
            wanted = targets.index(-1) if -1 in targets else len(targets)
            assert ids[:wanted] == raw[start : start + wanted]
            assert targets[:wanted] == raw[start + 1 : start + 1 + wanted]
            assert all(0 <= token < 2**32 for token in ids)  # padding is an id that an embedding has


def test_a_single_token_has_no_targets() -> None:
    assert list(evaluation_batches(split_of(np.array([7], dtype=np.uint16)), block_size=4, batch_size=2)) == []


# --- ranks, and batches made ahead ------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [Shuffled(), Sequential()], ids=["shuffled", "sequential"])
@pytest.mark.parametrize("windows", [1, 4, 7, 12])
@pytest.mark.parametrize("n_tokens", [60, 211, 506])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_the_ranks_see_each_window_once_an_epoch_and_share_none(
    n_tokens: int, world_size: int, windows: int, order: Order
) -> None:
    split = split_of(np.arange(n_tokens, dtype=np.uint16))
    ctx = OrderContext(first_window=0, n_tokens=n_tokens, block_size=BLOCK, batch_windows=windows, seed=3)
    n = n_tokens // BLOCK - 1 if isinstance(order, Shuffled) else (n_tokens - 1) // BLOCK
    ranks = [Batches(split, order, ctx, rank=rank, world_size=world_size) for rank in range(world_size)]
    steps = -(-n // windows)
    seen = [start for step in range(steps) for rank in ranks for start in rank.at(step).starts.tolist()][:n]
    ordered = np.sort(seen)
    np.testing.assert_array_equal(ordered, np.arange(n) * BLOCK + ordered[0])
    for step in range(steps):
        shares = [rank.at(step) for rank in ranks]
        own = [share.ids[: len(share.starts), 0].tolist() for share in shares]
        assert [start for starts in own for start in starts] == ranks[0].starts(step).tolist()
        assert len({share.ids.shape for share in shares}) == 1  # all compute as much,
        assert sum(int((share.targets >= 0).sum()) for share in shares) == windows * BLOCK  # and no token counts twice
        assert {share.all_tokens for share in shares} == {windows * BLOCK}


@pytest.mark.parametrize("together", [1, 2, 6])
def test_a_prefetched_batch_is_the_same_batch(batches: Batches, together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "PREFETCH_TOKENS", together * WINDOWS * BLOCK)
    ahead = Prefetcher(batches, total_steps=6)
    for step in (0, 1, 2, 5, 3, 4, 5):  # in turn, and not
        assert torch.equal(ahead.at(step).ids, batches.at(step).ids)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("order", [Shuffled(at_documents=True), Random()], ids=["shuffled", "random"])
def test_batches_of_several_steps_are_those_of_each(tokens: np.ndarray, order: Order, world_size: int) -> None:
    split = split_of(tokens, documents=(0, 13, 14, 90, 170), has_eot=True)
    ctx = OrderContext(first_window=0, n_tokens=len(tokens), block_size=BLOCK, batch_windows=WINDOWS, seed=3)
    for rank in range(world_size):
        batches = Batches(split, order, ctx, with_segments=True, rank=rank, world_size=world_size)
        for step, batch in enumerate(batches.at_steps(range(4))):
            alone = batches.at(step)
            assert (batch.starts.tolist(), batch.all_tokens) == (alone.starts.tolist(), alone.all_tokens)
            pairs = ((batch.ids, alone.ids), (batch.targets, alone.targets), (batch.segments, alone.segments))
            assert all(a is not None and b is not None and torch.equal(a, b) for a, b in pairs)


def test_an_order_may_give_the_same_array_again(batches: Batches) -> None:
    class Reusing(Order):
        def starts(self, step: int, ctx: OrderContext) -> np.ndarray:
            given.fill(step)
            return given

    given = np.zeros(WINDOWS, dtype=np.int64)
    made = Batches(batches.split, Reusing(), batches.ctx).at_steps(range(3))
    assert [batch.starts.tolist() for batch in made] == [[step] * WINDOWS for step in range(3)]


def test_batches_are_prefetched_up_to_the_last_step_and_no_further(batches: Batches) -> None:
    asked = []

    class Counting(Batches):
        def at_steps(self, steps: Sequence[int]) -> list[Batch]:
            asked.extend(steps)
            return super().at_steps(steps)

    ahead = Prefetcher(Counting(batches.split, batches.order, batches.ctx), total_steps=3)
    for step in range(3):
        ahead.at(step)
    assert sorted(asked) == [0, 1, 2]


def test_the_error_of_a_batch_made_ahead_is_raised_where_the_batch_is_wanted(batches: Batches) -> None:
    class Leaving(Shuffled):
        def starts(self, step: int, ctx: OrderContext) -> np.ndarray:
            return super().starts(step, ctx) + (1000 if step == 1 else 0)

    ahead = Prefetcher(Batches(batches.split, Leaving(), batches.ctx), total_steps=3)
    ahead.at(0)
    with pytest.raises(RunFailed, match=r"order Leaving .* starts .* for step 1; expected 7 starts from 0 to 205"):
        ahead.at(1)


def test_the_batch_of_step_one_million_takes_less_than_a_millisecond() -> None:
    n_tokens = 10**12  # as many as no disk here holds: one token, told a trillion times
    split = split_of(np.broadcast_to(np.array([7], dtype=np.uint16), (n_tokens,)))
    ctx = OrderContext(first_window=0, n_tokens=n_tokens, block_size=64, batch_windows=12, seed=3)
    batches = Batches(split, Shuffled(), ctx)
    seconds = []
    for step in range(10**6, 52 * 10**6, 10**6):
        began = time.perf_counter()
        batches.at(step)
        seconds.append(time.perf_counter() - began)
    assert median(seconds) < 1e-3


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_the_ranks_evaluate_every_token_once_and_each_as_many_batches(world_size: int, batch_size: int) -> None:
    split = split_of(np.arange(7 * BLOCK + 3, dtype=np.uint16))
    shares = [
        list(evaluation_batches(split, BLOCK, batch_size, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert len({len(share) for share in shares}) == 1
    targets = [target for share in shares for batch in share for target in batch.targets[batch.targets >= 0].tolist()]
    assert sorted(targets) == list(range(1, len(split.tokens)))
    in_turn = [batch.starts.tolist() for round_ in zip(*shares, strict=True) for batch in round_ if batch.all_tokens]
    assert in_turn == [batch.starts.tolist() for batch in evaluation_batches(split, BLOCK, batch_size)]


# --- steps of different sizes -----------------------------------------------------------------------------------


class Stairs(Schedule):
    """Half of the value at first, then the whole."""

    first: float = 0.5

    def multiplier(self, step: int, total_steps: float) -> float:
        return self.first if step < 2 else 1.0


def growing(tokens: np.ndarray, rank: int = 0, world_size: int = 1, **options: Any) -> Batches:
    """1, 1, 7, 7, ... windows of 6 tokens, cut into parts of 3, 3, 6, 6, ... tokens."""
    ctx = OrderContext(first_window=0, n_tokens=len(tokens), block_size=6, batch_windows=1, seed=3)
    plan = StepPlan(7 * 6, 6, 6, None, Stairs(first=0.1), Stairs())
    split = split_of(tokens, documents=(0, 13, 14, 90, 170), has_eot=True)
    ranks = {"rank": rank, "world_size": world_size}
    return Batches(split, Shuffled(), ctx, plan, with_segments=True, **ranks, **options)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_ranks_share_the_windows_of_steps_of_different_sizes(tokens: np.ndarray, world_size: int) -> None:
    ranks = [growing(tokens, rank, world_size) for rank in range(world_size)]
    steps = [rank.at_steps(range(6)) for rank in ranks]
    starts = [start for step in zip(*steps, strict=True) for share in step for start in share.starts.tolist()]
    whole = OrderContext(first_window=0, n_tokens=len(tokens), block_size=6, batch_windows=1 + 1 + 4 * 7, seed=3)
    assert starts == Shuffled().starts(0, whole).tolist()
    for step, shares in enumerate(zip(*steps, strict=True)):
        windows, length = (1, 3) if step < 2 else (7, 6)
        largest = -(-windows // world_size)
        assert {tuple(share.ids.shape) for share in shares} == {(largest * 6 // length, length)}
        assert sum(int((share.targets >= 0).sum()) for share in shares) == windows * 6
        for share, rank in zip(shares, ranks, strict=True):
            assert share.all_tokens == windows * 6
            at = (share.starts[:, None] + np.arange(6)).reshape(-1, length)
            np.testing.assert_array_equal(share.ids[: len(at)], tokens[at])
            np.testing.assert_array_equal(share.targets[: len(at)], tokens[at + 1])
            assert torch.equal(rank.at(step).ids, share.ids)


def test_what_only_fills_a_batch_is_left_out_whole_where_windows_are_cut(tokens: np.ndarray) -> None:
    last = growing(tokens, rank=3, world_size=4, leave_out_fill=True)
    first, third = last.at(0), last.at(2)
    assert [len(ids) for ids, _, _ in first.micro_batches(1)] == [2]  # the only window there, whose targets are ignored
    assert (first.targets == -1).all()
    assert [len(ids) for ids, _, _ in third.micro_batches(2)] == [1]  # one of two


def test_batches_made_ahead_are_few_where_steps_are_large(tokens: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "PREFETCH_TOKENS", 60)
    batches = growing(tokens)
    ahead = Prefetcher(batches, total_steps=6)
    assert [len(ahead.make_from(step)) for step in range(6)] == [3, 2, 1, 1, 1, 1]
    for step in (0, 1, 2, 5, 3, 4, 5):
        assert torch.equal(ahead.at(step).ids, batches.at(step).ids)


@pytest.mark.parametrize(
    ("micro_batch_size", "chunks", "single"), [(7, 1, True), (3, 1, True), (1, 1, False), (5, 1, True), (6, 2, True)]
)
def test_what_is_compiled_ahead_has_a_single_window_where_a_micro_batch_may_be_one(
    tokens: np.ndarray, micro_batch_size: int, chunks: int, single: bool
) -> None:
    """Of 1 and 7 windows."""
    batches = Prefetcher(growing(tokens), total_steps=6).of_each_shape(1, micro_batch_size, chunks)
    shapes = [tuple(batch.ids.shape) for batch in batches]
    assert shapes == [(2, 3), (7, 6), *([(1, 6)] if single else [])]
    rows = {len(ids) for batch in batches for ids, _, _ in batch.micro_batches(micro_batch_size)}
    assert (1 in rows) or not single
