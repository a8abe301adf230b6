"""How documents without splits are divided: by their text alone, few as well as many, a long one at its tail."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nanogpt_kit.api import Document, HashSplitDataset, KitError
from nanogpt_kit.corpus import hash_split
from nanogpt_kit.corpus.hash_split import LongDocument


class Pieces:
    """A document in pieces."""

    def __init__(self, *pieces: str) -> None:
        self.pieces = pieces

    def __iter__(self) -> Iterator[str]:
        return iter(self.pieces)


class Long(LongDocument):
    """One that tells how often it was asked."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.asked: list[str] = []

    def characters(self) -> int:
        self.asked.append("length")
        return len(self.text)

    def since(self, first: int) -> Iterator[str]:
        self.asked.append(f"since {first}")
        yield from (self.text[at : at + 10] for at in range(first, len(self.text), 10))


class Held(HashSplitDataset):
    source: str = ""
    _documents: Sequence[Document] = ()

    def all_documents(self) -> Iterator[Document]:
        return iter(self._documents)

    def fingerprint(self) -> str:
        return ""


def held(documents: Sequence[Document], **options: float | str) -> Held:
    dataset = Held(**options)
    dataset._documents = documents
    return dataset


def found(dataset: HashSplitDataset) -> list[tuple[str, str]]:
    return [(split, "".join(document)) for split, document in dataset.documents_with_split()]


def place(text: str) -> float:
    return int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) / 16**16


MANY = [f"document {number}" for number in range(500)]


def test_a_hash_of_the_text_decides() -> None:
    expected = ["val" if place(text) < 0.2 else "test" if place(text) < 0.5 else "train" for text in MANY]
    assert found(held(MANY, val_fraction=0.2, test_fraction=0.3)) == list(zip(expected, MANY, strict=True))
    without = ["val" if split == "val" else "train" for split in expected]
    assert found(held(MANY, val_fraction=0.2)) == list(zip(without, MANY, strict=True))


def test_a_document_in_slices_gets_the_split_of_its_text() -> None:
    whole = {text: split for split, text in found(held(MANY))}
    in_pieces = found(held([Pieces(text[:3], "", text[3:]) for text in MANY]))
    assert {text: split for split, text in in_pieces} == whole


@given(st.lists(st.text("ab", max_size=2), max_size=8), st.sampled_from([0.0, 0.3]))
def test_every_document_is_in_one_split_and_all_splits_are_filled(texts: list[str], test_fraction: float) -> None:
    dataset = held(texts, test_fraction=test_fraction)
    distinct = set(filter(None, texts))
    if not distinct or 1 < len(distinct) < len(dataset.splits):
        with pytest.raises(KitError):
            found(dataset)
        return
    if len(distinct) == 1:
        assert "".join(text for _, text in found(dataset)) == distinct.pop()
        return
    divided = found(dataset)
    assert [text for _, text in divided] == texts  # empty ones, too, to be counted
    divided = [(split, text) for split, text in divided if text]
    assert {split for split, _ in divided} == set(dataset.splits)
    assert len(set(divided)) == len(distinct)


def test_the_lowest_of_few_validates_and_the_next_tests() -> None:
    low_to_high = sorted(MANY[:4], key=place)
    few = found(held(MANY[:4] * 2, val_fraction=1e-9, test_fraction=1e-9))
    assert {text: split for split, text in few} == dict(
        zip(low_to_high, ["val", "test", "train", "train"], strict=True)
    )


@pytest.mark.parametrize("times", [1, 3])
def test_a_single_document_is_cut_at_its_tail(times: int) -> None:
    text = "".join(map(chr, range(100, 1100)))
    for document in (text, Pieces(text[:333], "", text[333:]), Long(text)):
        dataset = held([document, *[text] * (times - 1), ""], val_fraction=0.2, test_fraction=0.1)
        expected = [("train", text[:700]), ("val", text[700:900]), ("test", text[900:])]
        assert found(dataset) == expected
        assert [("train", "".join(part)) for part in dataset.documents("train")] == expected[:1]


def test_parts_of_a_long_document_can_be_gone_through_again() -> None:
    parts = [document for _, document in held([Pieces("abc", "def", "ghij")], val_fraction=0.5).documents_with_split()]
    for _ in range(2):
        assert [list(part) for part in parts] == [["abc", "de"], ["f", "ghij"]]


def test_a_long_document_is_measured_once_and_its_tail_entered_at_once() -> None:
    document = Long("x" * 1000)
    found(held([document]))
    assert document.asked == ["since 0", "length", "since 0", "since 900"]  # the first to see that it is not empty


def test_a_document_alone_is_not_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hash_split, "document_digest", lambda _: pytest.fail("hashed"))
    assert [split for split, _ in found(held(["alone", "", Pieces("")]))] == ["train", "val"]


def test_only_a_bounded_number_of_documents_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hash_split, "MAX_SCANNED_DOCUMENTS", 50)
    seen = []

    class Endless:
        def __iter__(self) -> Iterator[str]:
            return (seen.append(text) or text for text in MANY)

    dataset = held(Endless(), val_fraction=1e-9)  # type: ignore[arg-type]
    assert dataset._scan() == (None, None)
    assert len(seen) == 51
    assert {split for split, _ in found(dataset)} == {"train"}


def test_the_source_is_named_where_there_is_no_text() -> None:
    for documents in ([], ["", Pieces(""), Pieces()]):
        with pytest.raises(KitError, match=r"dataset\.source: 'here' contains no text: every document is empty"):
            found(held(documents, source="here"))
    with pytest.raises(KitError, match=r"'here' contains 2 documents, too few for 3 splits; .* test_fraction"):
        found(held(["a", "b"] * 3, source="here", test_fraction=0.1))


def test_fractions_of_splits_leave_text_to_train_on() -> None:
    with pytest.raises(ValidationError, match=r"test_fraction \(0\.5\) should be less than 1"):
        Held(val_fraction=0.5, test_fraction=0.5)
    assert Held(val_fraction=0.5, test_fraction=0.4).splits == ("train", "val", "test")
