"""Batches of a mixture in part masked, whose size and length grow, on several ranks: each place against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from nanogpt_kit.api import Order, OrderContext, PackedOrder, Schedule
from nanogpt_kit.components.order.documents import Documents
from nanogpt_kit.components.order.shuffled import Shuffled
from nanogpt_kit.core.step_plan import StepPlan
from nanogpt_kit.data.batches import Batches, Prefetcher
from nanogpt_kit.data.order_of_sources import order_of_sources
from nanogpt_kit.data.quota import QuotaSequence
from nanogpt_kit.data.split import Source, Split

BLOCK, WINDOWS, STEPS = 12, 7, 9
SIZES, WEIGHTS = (140, 61), (3, 2)
DOCUMENTS = tuple(np.cumsum([0, *([5, 17, 2, 9, 30] * 3)[:length]]) for length in (10, 5))  # first tokens, by source
COUNTED = [(0, 20), (33, 34), (60, 150), (170, 201)]  # from the first token that counts to the one after the last


def make_split() -> Split:
    """Token n of the text is 1000 + n."""
    firsts, opens, sources = np.cumsum([0, *SIZES]).tolist(), [], []
    for name, first, size, documents in zip(("long", "short"), firsts[:-1], SIZES, DOCUMENTS, strict=True):
        own = [first + int(start) for start in documents if start < size]
        sources.append(Source(name, first, size, len(opens), len(own)))
        opens += own
    tokens = np.arange(1000, 1000 + sum(SIZES)).astype(np.uint16)
    edges = np.array(COUNTED, np.int64).ravel()
    return Split(tokens, np.array(opens, np.int64), has_eot=False, sources=tuple(sources), counted=edges)


class Thirds(Schedule):
    """A third of the value, then two, then all of it."""

    def multiplier(self, step: int, total_steps: float) -> float:
        return min(1.0, (step // 2 + 1) / 3)


SPLIT, QUOTA = make_split(), QuotaSequence(WEIGHTS)
PLAN = StepPlan(WINDOWS * BLOCK, BLOCK, STEPS, None, Thirds(), Thirds())
N_WINDOWS, LENGTHS = [2, 2, 4, 4, 7, 7, 7, 7, 7], [4, 4, 6, 6, 12, 12, 12, 12, 12]


def context() -> OrderContext:
    of_split = {"documents": SPLIT.document_starts, "tokens": SPLIT.tokens, "n_tokens": len(SPLIT.tokens)}
    return OrderContext(block_size=BLOCK, first_window=0, batch_windows=1, seed=3, **of_split)


def plain_windows(order: Order, n_windows: int) -> list[list[tuple[int, int]]]:
    """(id, target) of each place of a run's first windows, one after the other."""
    counts = {token for first, end in COUNTED for token in range(first, end)}
    windows, before = [], [0, 0]
    for window in range(n_windows):
        of_source = int(QUOTA.of_windows(window, 1)[0])
        source, documents = SPLIT.sources[of_source], DOCUMENTS[of_source]
        own = OrderContext(
            n_tokens=source.n_tokens,
            block_size=BLOCK,
            first_window=before[of_source],
            batch_windows=1,
            seed=3,
            documents=documents[documents < source.n_tokens],
        )
        before[of_source] += 1
        starts, lengths = order.starts(0, own), np.array([BLOCK])
        if isinstance(order, PackedOrder):
            packed = order.packed(0, own)
            starts, lengths = packed.starts, packed.lengths
        pieces = zip(starts.tolist(), lengths.tolist(), strict=True)
        at = [source.first + start + n for start, length in pieces for n in range(length)]
        places = [(1000 + token, 1001 + token if token + 1 in counts else -1) for token in at]
        windows.append(places + [(0, -1)] * (BLOCK - len(places)))
    return windows


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("order", [Shuffled(), Documents()], ids=["shuffled", "documents"])
def test_each_place_is_that_of_the_source_its_order_and_its_marks(order: Order, world_size: int) -> None:
    expected = plain_windows(order, sum(N_WINDOWS))
    ranks = [
        Batches(SPLIT, order_of_sources(order, SPLIT, QUOTA), context(), PLAN, with_segments=True, **of_rank)
        for of_rank in ({"rank": rank, "world_size": world_size} for rank in range(world_size))
    ]
    prefetched = [Prefetcher(rank, STEPS) for rank in ranks]
    for step, (n_windows, length) in enumerate(zip(N_WINDOWS, LENGTHS, strict=True)):
        windows, expected = expected[:n_windows], expected[n_windows:]
        places = [place for window in windows for place in window]
        found = []
        for rank, ahead in zip(ranks, prefetched, strict=True):
            batch = ahead.at(step)
            assert batch.ids.shape == (-(-n_windows // world_size) * BLOCK // length, length)
            assert batch.all_tokens == sum(target >= 0 for _, target in places)
            own = len(batch.starts) * BLOCK
            assert (batch.targets.flatten()[own:] == -1).all(), "what fills the batch counts for nothing"
            found += list(zip(batch.ids.flatten().tolist()[:own], batch.targets.flatten().tolist()[:own], strict=True))
            alone = rank.at(step)
            for name in ("ids", "targets", "segments"):
                assert getattr(batch, name).equal(getattr(alone, name))
        assert found == places
