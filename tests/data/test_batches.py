"""Batches: the very tokens of the split, each where it belongs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nanogpt_kit.api import OrderContext
from nanogpt_kit.components.order.random import Random
from nanogpt_kit.components.order.shuffled import Shuffled
from nanogpt_kit.data.batches import Batches, every_token_once

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


@pytest.fixture
def batches(tokens: np.ndarray) -> Batches:
    ctx = OrderContext(n_tokens=len(tokens), block_size=BLOCK, batch_windows=WINDOWS, seed=3)
    return Batches(tokens, Shuffled(), ctx)


@pytest.mark.parametrize("step", [0, 1, 40])
def test_targets_are_the_next_tokens(batches: Batches, tokens: np.ndarray, step: int) -> None:
    batch = batches.at(step)
    raw = tokens.tolist()
    assert batch.ids.tolist() == [raw[start : start + BLOCK] for start in batch.starts]
    assert batch.targets.tolist() == [raw[start + 1 : start + BLOCK + 1] for start in batch.starts]
    assert batch.ids.dtype == batch.targets.dtype == torch.int64
    assert batch.tokens == WINDOWS * BLOCK


def test_a_batch_follows_from_its_step_alone(batches: Batches, tokens: np.ndarray) -> None:
    later = batches.at(9)
    batches.at(2)
    again = Batches(tokens, batches.order, batches.ctx).at(9)
    assert torch.equal(later.ids, again.ids)
    assert not torch.equal(later.ids, batches.at(10).ids)


def test_the_order_decides_the_windows(batches: Batches, tokens: np.ndarray) -> None:
    drawn = Batches(tokens, Random(), batches.ctx).at(4)
    np.testing.assert_array_equal(drawn.starts, Random().starts(4, batches.ctx))
    np.testing.assert_array_equal(drawn.ids[:, 0], tokens[drawn.starts])


@pytest.mark.parametrize(("size", "lengths"), [(1, [1] * 7), (3, [3, 3, 1]), (4, [4, 3]), (7, [7]), (9, [7])])
def test_micro_batches_are_the_batch_in_pieces(batches: Batches, size: int, lengths: list[int]) -> None:
    batch = batches.at(0)
    pieces = list(batch.micro_batches(size))
    assert [len(ids) for ids, _ in pieces] == lengths
    assert torch.equal(torch.cat([ids for ids, _ in pieces]), batch.ids)
    assert torch.equal(torch.cat([targets for _, targets in pieces]), batch.targets)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize(
    ("n_tokens", "block_size"), [(2, 5), (5, 5), (6, 5), (7, 5), (11, 5), (100, 7), (99, 7), (106, 7), (64, 1)]
)
def test_every_token_but_the_first_is_a_target_once(n_tokens: int, block_size: int, batch_size: int) -> None:
    tokens = np.arange(1000, 1000 + n_tokens, dtype=np.uint16)
    batches = list(every_token_once(tokens, block_size, batch_size))
    targets = torch.cat([batch.targets for batch in batches]).flatten().tolist()
    n_windows = -(-(n_tokens - 1) // block_size)
    assert targets == [*range(1001, 1000 + n_tokens), *[-1] * (n_windows * block_size - (n_tokens - 1))]
    assert sum(batch.tokens for batch in batches) == n_tokens - 1
    assert [len(batch.ids) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert 1 <= len(batches[-1].ids) <= batch_size


def test_each_target_of_a_whole_split_follows_its_own_id(tokens: np.ndarray) -> None:
    raw = tokens.tolist()
    for batch in every_token_once(tokens, block_size=8, batch_size=4):
        assert batch.ids.dtype == batch.targets.dtype == torch.int64
        for start, ids, targets in zip(batch.starts, batch.ids.tolist(), batch.targets.tolist(), strict=True):
            wanted = targets.index(-1) if -1 in targets else len(targets)
            assert ids[:wanted] == raw[start : start + wanted]
            assert targets[:wanted] == raw[start + 1 : start + 1 + wanted]
            assert all(0 <= token < 2**32 for token in ids)  # padding is an id that an embedding has


def test_a_single_token_has_no_targets() -> None:
    assert list(every_token_once(np.array([7], dtype=np.uint16), block_size=4, batch_size=2)) == []
