"""The suite for datasets: the same text at each pass, Unicode all of it, and none that validates what it trained on.

All of the dataset is gone through several times, so let `source` or the like name something small.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import ClassVar

import numpy as np
import pytest
import tomli
import tomli_w

from nanogpt_kit.core.kinds import Dataset, Document
from nanogpt_kit.testing.conformance import ComponentConformance

MOST_NULS = 0.1  # of the characters of a document


class DatasetConformance(ComponentConformance):
    """Subclass it with `component = MyDataset(...)`. One that is tokens already is asked for these instead."""

    component: ClassVar[Dataset]

    def texts(self, split: str) -> list[str]:
        return [text_of(document) for document in self.component.documents(split)]

    def tokens(self, split: str) -> list[np.ndarray]:
        pieces = self.component.tokens(split)
        assert pieces is not None, f"there are tokens of train, but not of {split}"
        return list(pieces)

    def has_tokens(self) -> bool:
        return self.component.tokens("train") is not None

    def needs_text(self) -> None:
        if self.has_tokens():
            pytest.skip(f"{type(self.component).__name__} holds tokens")

    def needs_tokens(self) -> None:
        if not self.has_tokens():
            pytest.skip(f"{type(self.component).__name__} holds text")

    def test_train_and_val_are_among_its_splits(self) -> None:
        splits = self.component.splits
        assert {"train", "val"} <= set(splits)
        assert len(set(splits)) == len(splits)

    def test_every_split_has_something(self) -> None:
        for split in self.component.splits:
            found = self.tokens(split) if self.has_tokens() else self.texts(split)
            assert any(len(piece) for piece in found), f"{split} is empty"

    def test_each_pass_gives_the_same(self) -> None:
        for split in self.component.splits:
            if self.has_tokens():
                one, other = (np.concatenate(self.tokens(split)) for _ in range(2))
                assert np.array_equal(one, other), f"a second pass over {split} gives other tokens"
            else:
                assert self.texts(split) == self.texts(split), f"a second pass over {split} gives other documents"

    def test_the_fingerprint_is_a_stable_hash(self) -> None:
        written = tomli.loads(tomli_w.dumps(self.written()))
        again = type(self.component).model_validate({key: value for key, value in written.items() if key != "use"})
        found = self.component.fingerprint()
        assert isinstance(found, str)
        assert found
        assert self.component.fingerprint() == found == again.fingerprint()

    def test_the_size_of_its_text_is_a_number_or_not_known(self) -> None:
        size = self.component.text_bytes()
        assert size is None or (isinstance(size, int) and size > 0)

    # --- text ---

    def test_documents_are_strings_or_can_be_gone_through_again(self) -> None:
        self.needs_text()
        for split in self.component.splits:
            for document in self.component.documents(split):
                if not isinstance(document, str):
                    once, again = list(document), list(document)
                    assert all(isinstance(piece, str) for piece in once), f"a document of {split} is not made of text"
                    assert once == again, f"a document of {split} cannot be gone through again"

    def test_all_text_is_unicode(self) -> None:
        self.needs_text()
        for split in self.component.splits:
            for number, text in enumerate(self.texts(split)):
                halves = [character for character in text if "\ud800" <= character <= "\udfff"]
                assert not halves, f"document {number} of {split} holds half a surrogate pair, {halves[0]!r}"

    def test_text_is_not_another_encoding_read_raw(self) -> None:
        """Bytes of UTF-16 are characters of UTF-8, too: every other one is NUL then."""
        self.needs_text()
        for split in self.component.splits:
            for number, text in enumerate(self.texts(split)):
                share = text.count("\0") / max(1, len(text))
                assert share < MOST_NULS, f"{share:.0%} of document {number} of {split} are NULs: is it UTF-16?"

    def test_assigned_documents_are_those_of_the_splits(self) -> None:
        self.needs_text()
        found: dict[str, list[str]] = defaultdict(list)
        for split, document in self.component.documents_with_split():
            found[split].append(text_of(document))
        assert found.keys() <= set(self.component.splits)
        for split in self.component.splits:
            texts, assigned = ([text for text in some if text] for some in (self.texts(split), found[split]))
            assert assigned == texts, f"`assigned` and `documents` disagree about {split}"

    def test_no_text_is_in_two_splits(self) -> None:
        self.needs_text()
        if self.component.has_own_splits:
            pytest.skip("others have split it")
        home: dict[str, str] = {}
        for split in self.component.splits:
            for text in filter(None, self.texts(split)):
                assert home.setdefault(text, split) == split, f"{text[:50]!r} is in {home[text]} and in {split}"

    # --- tokens ---

    def test_tokens_are_whole_numbers_in_flat_pieces(self) -> None:
        self.needs_tokens()
        for split in self.component.splits:
            for piece in self.tokens(split):
                assert piece.ndim == 1
                assert np.issubdtype(piece.dtype, np.integer), f"tokens of {split} are {piece.dtype}"
                assert not len(piece) or piece.min() >= 0, f"{split} holds the token {piece.min()}"

    def test_the_number_of_tokens_is_right_or_not_known(self) -> None:
        self.needs_tokens()
        count = self.component.token_count()
        there = sum(len(piece) for split in self.component.splits for piece in self.tokens(split))
        assert count is None or count == there, f"token_count() is {count}, and there are {there}"

    def test_a_token_has_a_place(self) -> None:
        self.needs_tokens()
        for split in self.component.splits:
            last = sum(len(piece) for piece in self.tokens(split)) - 1
            first, other = (self.component.token_place(split, index) for index in (0, last))
            assert isinstance(first, str)
            assert first
            assert last == 0 or first != other, f"the first and the last token of {split} are both at {first}"

    def test_a_vocabulary_can_be_written_down(self) -> None:
        self.needs_tokens()
        vocabulary = self.component.vocabulary()
        assert vocabulary is None or json.loads(json.dumps(dict(vocabulary))) == dict(vocabulary)


def text_of(document: Document) -> str:
    return document if isinstance(document, str) else "".join(document)
