"""Documents in windows: segments, and windows that begin with a document, each against a plain loop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.data.batches import evaluation_batches
from nanogpt_kit.data.prepare import prepare
from nanogpt_kit.data.split import Split

EOT = 99


def split_of(lengths: list[int], has_eot: bool) -> Split:
    """Documents of some tokens each, their ends not counted; token n of a document is n."""
    tokens: list[int] = []
    documents = []
    for length in lengths:
        documents.append(len(tokens))
        tokens += [*range(length), *([EOT] if has_eot else [])]
    return Split(np.array(tokens, dtype=np.uint16), np.array(documents, dtype=np.int64), has_eot)


def opening(split: Split) -> set[int]:
    """Where documents open: at the end of the one before where there are ends, else at their first token."""
    return {int(first) - int(split.has_eot) for first in split.document_starts if first or not split.has_eot} | {0}


lengths = st.lists(st.integers(1, 9), min_size=1, max_size=12)


@given(lengths=lengths, has_eot=st.booleans(), block_size=st.integers(1, 12), data=st.data())
def test_segments_change_where_a_document_opens(
    lengths: list[int], has_eot: bool, block_size: int, data: st.DataObject
) -> None:
    split = split_of(lengths, has_eot)
    starts = np.array(data.draw(st.lists(st.integers(0, len(split.tokens) - 1), min_size=1, max_size=5)))
    for start, found in zip(starts.tolist(), split.segments(starts, block_size).tolist(), strict=True):
        segment, expected = 0, []
        for place in range(start, start + block_size):
            segment += place > start and place in opening(split) and place < len(split.tokens)
            expected.append(segment)
        assert found == expected


def test_an_end_of_text_belongs_to_the_document_that_it_opens() -> None:
    split = split_of([3, 2, 4], has_eot=True)  # 0 1 2 E 0 1 E 0 1 2 3 E
    assert split.segments(np.array([0, 3]), 8).tolist() == [[0, 0, 0, 1, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1, 1, 1]]


def test_without_ends_a_document_opens_with_its_first_token() -> None:
    split = split_of([3, 2, 4], has_eot=False)  # 0 1 2 0 1 0 1 2 3
    assert split.segments(np.array([0, 2]), 7).tolist() == [[0, 0, 0, 1, 1, 2, 2], [0, 1, 1, 2, 2, 2, 2]]


@given(lengths=lengths, has_eot=st.booleans(), block_size=st.integers(1, 12))
def test_windows_move_on_to_a_document_within_them(lengths: list[int], has_eot: bool, block_size: int) -> None:
    split = split_of(lengths, has_eot)
    last = len(split.tokens) - 1 - block_size
    starts = np.arange(max(0, last + 1))
    for start, found in zip(starts.tolist(), split.move_to_documents(starts, block_size).tolist(), strict=True):
        places = [place for place in range(start, start + block_size) if place in opening(split) and place <= last]
        assert found == (min(places) if places else start)


def test_an_option_of_every_order_moves_the_windows(tiny: Path, tmp_path: Path) -> None:
    import json

    from nanogpt_kit.api import OrderContext
    from nanogpt_kit.data.batches import Batches

    lines = [json.dumps({"text": f"{number}: " + "ab " * (number % 7)}) for number in range(200)]
    (tmp_path / "lines.jsonl").write_text("\n".join(lines))
    options = ["order.use=shuffled", "order.at_documents=true"]
    experiment = Experiment.load(tiny, [f"dataset.source={tmp_path / 'lines.jsonl'}", *options])
    split = prepare(experiment).split("train")
    ctx = OrderContext(first_window=0, n_tokens=len(split.tokens), block_size=24, batch_windows=50, seed=1)
    batch = Batches(split, experiment.order, ctx).at(0)
    openings = opening(split)
    assert all(start in openings for start in batch.starts.tolist())  # every document is shorter than a window
    assert (batch.ids[batch.starts > 0, 0] == 256).all()


@pytest.mark.parametrize("with_segments", [True, False])
def test_evaluation_masks_documents_too(with_segments: bool) -> None:
    split = split_of([5, 6, 3, 9], has_eot=True)
    batches = list(evaluation_batches(split, 8, 2, with_segments))
    assert all((batch.segments is not None) == with_segments for batch in batches)
    if with_segments:
        for batch in batches:
            assert batch.segments is not None
            assert batch.segments.tolist() == split.segments(batch.starts, 8).tolist()


@given(lengths=lengths, block_size=st.integers(1, 12), data=st.data())
def test_targets_count_between_edges(lengths: list[int], block_size: int, data: st.DataObject) -> None:
    whole = split_of(lengths, has_eot=True)
    n = len(whole.tokens)
    edges = sorted(data.draw(st.lists(st.integers(0, n), max_size=8).filter(lambda drawn: len(drawn) % 2 == 0)))
    if not edges:
        edges = [0, 0]  # nothing counts
    split = replace(whole, counted=np.array(edges, dtype=np.int64))
    flags = [any(first <= at < end for first, end in zip(edges[::2], edges[1::2], strict=True)) for at in range(n)]
    starts = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=5)))
    ids, targets = split.windows(starts, block_size)
    assert (ids == whole.windows(starts, block_size)[0]).all()
    for start, found in zip(starts.tolist(), targets.tolist(), strict=True):
        places = range(start + 1, start + 1 + block_size)
        assert found == [whole.tokens[at] if at < n and flags[at] else -1 for at in places]
    assert split.count_targets(starts, block_size).tolist() == (targets >= 0).sum(axis=1).tolist()
    sizes = np.array(data.draw(st.lists(st.integers(1, 20), min_size=len(starts), max_size=len(starts))))
    pieces = [sum(flags[start + 1 : start + 1 + size]) for start, size in zip(starts, sizes, strict=True)]
    assert split.count_targets(starts, sizes).tolist() == pieces
    assert whole.count_targets(starts, sizes).tolist() == np.minimum(sizes, n - 1 - starts).tolist()
