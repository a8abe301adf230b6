"""The suite for datasets: the same text in each pass, valid Unicode, and no text in two splits.

The dataset is read several times, so choose a small source.
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
from nanogpt_kit.testing.component import ComponentConformance

MAX_NUL_FRACTION = 0.1  # of a document's characters


class DatasetConformance(ComponentConformance):
    """Subclass it with `component = MyDataset(...)`. For a dataset of tokens, tokens are tested instead of text."""

    component: ClassVar[Dataset]

    def texts(self, split: str) -> list[str]:
        return [join_document(document) for document in self.component.documents(split)]

    def tokens(self, split: str) -> list[np.ndarray]:
        pieces = self.component.tokens(split)
        assert pieces is not None, f"train has tokens, but {split} has none"
        return list(pieces)

    def has_tokens(self) -> bool:
        return self.component.tokens("train") is not None

    def skip_unless_text(self) -> None:
        if self.has_tokens():
            pytest.skip(f"{type(self.component).__name__} holds tokens")

    def skip_unless_tokens(self) -> None:
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

    def test_every_pass_gives_the_same(self) -> None:
        for split in self.component.splits:
            if self.has_tokens():
                one, other = (np.concatenate(self.tokens(split)) for _ in range(2))
                assert np.array_equal(one, other), f"a second pass over {split} gives other tokens"
            else:
                assert self.texts(split) == self.texts(split), f"a second pass over {split} gives other documents"

    def test_the_fingerprint_is_a_stable_hash(self) -> None:
        written = tomli.loads(tomli_w.dumps(self.as_toml()))
        again = type(self.component).model_validate({key: value for key, value in written.items() if key != "use"})
        found = self.component.fingerprint()
        assert isinstance(found, str)
        assert found
        assert self.component.fingerprint() == found == again.fingerprint()

    def test_the_text_size_is_positive_or_unknown(self) -> None:
        size = self.component.text_bytes()
        assert size is None or (isinstance(size, int) and size > 0)

    # --- text ---

    def test_documents_are_strings_or_can_be_iterated_again(self) -> None:
        self.skip_unless_text()
        for split in self.component.splits:
            for document in self.component.documents(split):
                if not isinstance(document, str):
                    once, again = list(document), list(document)
                    assert all(isinstance(part, str) for part in once), (
                        f"a document of {split} does not consist of strings"
                    )
                    assert once == again, f"a document of {split} cannot be iterated again"

    def test_all_text_is_unicode(self) -> None:
        self.skip_unless_text()
        for split in self.component.splits:
            for index, text in enumerate(self.texts(split)):
                halves = [character for character in text if "\ud800" <= character <= "\udfff"]
                assert not halves, (
                    f"document {index} of {split} contains half a surrogate pair, {halves[0]!r}: use errors='replace'"
                )

    def test_text_is_decoded_correctly(self) -> None:
        """UTF-16 read as UTF-8 has a NUL after each ASCII character."""
        self.skip_unless_text()
        for split in self.component.splits:
            for index, text in enumerate(self.texts(split)):
                fraction = text.count("\0") / max(1, len(text))
                assert fraction < MAX_NUL_FRACTION, (
                    f"{fraction:.0%} of document {index} of {split} are NULs: is it UTF-16?"
                )

    def test_documents_with_split_are_those_of_the_splits(self) -> None:
        self.skip_unless_text()
        found: dict[str, list[str]] = defaultdict(list)
        for split, document in self.component.documents_with_split():
            found[split].append(join_document(document))
        assert found.keys() <= set(self.component.splits)
        for split in self.component.splits:
            texts, assigned = ([text for text in some if text] for some in (self.texts(split), found[split]))
            assert assigned == texts, f"documents_with_split() and documents() disagree about {split}"

    def test_no_text_is_in_two_splits(self) -> None:
        self.skip_unless_text()
        if self.component.has_own_splits:
            pytest.skip("it has its own splits")
        home: dict[str, str] = {}
        for split in self.component.splits:
            for text in filter(None, self.texts(split)):
                assert home.setdefault(text, split) == split, f"{text[:50]!r} is in {home[text]} and in {split}"

    # --- tokens ---

    def test_tokens_are_flat_integer_arrays(self) -> None:
        self.skip_unless_tokens()
        for split in self.component.splits:
            for piece in self.tokens(split):
                assert piece.ndim == 1
                assert np.issubdtype(piece.dtype, np.integer), f"tokens of {split} are {piece.dtype}"
                assert not len(piece) or piece.min() >= 0, f"{split} holds the token {piece.min()}"

    def test_the_token_count_is_right_or_unknown(self) -> None:
        self.skip_unless_tokens()
        count = self.component.token_count()
        there = sum(len(piece) for split in self.component.splits for piece in self.tokens(split))
        assert count is None or count == there, f"token_count() is {count}, but there are {there}"

    def test_a_token_has_a_location(self) -> None:
        self.skip_unless_tokens()
        for split in self.component.splits:
            last = sum(len(piece) for piece in self.tokens(split)) - 1
            first, other = (self.component.token_location(split, index) for index in (0, last))
            assert isinstance(first, str)
            assert first
            assert last == 0 or first != other, f"the first and the last token of {split} are both at {first}"

    def test_a_vocabulary_survives_json(self) -> None:
        self.skip_unless_tokens()
        vocabulary = self.component.vocabulary()
        assert vocabulary is None or json.loads(json.dumps(dict(vocabulary))) == dict(vocabulary)


def join_document(document: Document) -> str:
    return document if isinstance(document, str) else "".join(document)
