"""The suite for datasets: the same text in each pass, valid Unicode, and no text in two splits.

The dataset is read several times, so choose a small source.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from typing import ClassVar

import numpy as np
import pytest
import tomli
import tomli_w

from nanogpt_kit.core.kinds import Dataset, Document, MarkedText
from nanogpt_kit.testing.component import ComponentConformance
from nanogpt_kit.testing.remedy import errors_as_failures

METRIC_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
SAME = "sort what the file system or a set lists, and draw no random numbers"
Marks = tuple[tuple[int, int], ...]  # (first, end) of each span
MAX_NUL_FRACTION = 0.1  # of a document's characters


class DatasetConformance(ComponentConformance):
    """Subclass it with `component = MyDataset(...)`. For a dataset of tokens, tokens are tested instead of text."""

    component: ClassVar[Dataset]

    def texts(self, split: str) -> list[str]:
        return [join_document(document) for document in self.component.documents(split)]

    def marks(self, split: str) -> list[Marks | None]:
        """The spans that count of each document that has text; None for one that counts wholly."""
        return [marks_of(document) for document in self.component.documents(split) if join_document(document)]

    def tokens(self, split: str) -> list[np.ndarray]:
        pieces = self.component.tokens(split)
        assert pieces is not None, f"train has tokens, but {split} has none: return tokens for every split, or for none"
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
        missing = {"train", "val"} - set(splits)
        assert not missing, f"splits is {splits}: add {' and '.join(sorted(missing))}"
        assert len(set(splits)) == len(splits), f"splits is {splits}: name each once"

    def test_every_split_has_something(self) -> None:
        for split in self.component.splits:
            found = self.tokens(split) if self.has_tokens() else self.texts(split)
            what = "tokens" if self.has_tokens() else "text"
            remedy = "test with a larger source, or leave the split out of `splits`"
            assert any(len(piece) for piece in found), f"{split} has no {what}: {remedy}"

    def test_every_pass_gives_the_same(self) -> None:
        for split in self.component.splits:
            if self.has_tokens():
                one, other = (np.concatenate(self.tokens(split)) for _ in range(2))
                assert np.array_equal(one, other), f"a second pass over {split} gives other tokens: {SAME}"
            else:
                same = self.texts(split) == self.texts(split)
                assert same, f"a second pass over {split} gives other documents: {SAME}"
                same = self.marks(split) == self.marks(split)
                assert same, f"a second pass over {split} marks other spans of its documents: {SAME}"

    def test_the_fingerprint_is_a_stable_hash(self) -> None:
        written = tomli.loads(tomli_w.dumps(self.as_toml()))
        again = type(self.component).model_validate({key: value for key, value in written.items() if key != "use"})
        found = self.component.fingerprint()
        remedy = "return a hash of the options and of the source's content, such as api.content_hash"
        assert isinstance(found, str), f"fingerprint() is {found!r}: {remedy}"
        assert found, f"fingerprint() is empty: {remedy}"
        for what, other in (("a second call", self.component), ("a component with the same options", again)):
            assert other.fingerprint() == found, f"the fingerprint of {what} differs: {remedy}"

    def test_the_text_size_is_positive_or_unknown(self) -> None:
        size = self.component.text_bytes()
        remedy = "return a positive whole number, or None where it is not known"
        assert size is None or (isinstance(size, int) and size > 0), f"text_bytes() is {size!r}: {remedy}"

    def test_each_source_has_its_splits_and_no_sources(self) -> None:
        for name, source in self.component.sources.items():
            missing = set(self.component.splits) - set(source.splits)
            assert not missing, f"source {name!r} has no {' and '.join(sorted(missing))}: leave it out of `splits`"
            assert not source.sources, f"source {name!r} has sources itself: name those in its place"
            assert METRIC_PART.fullmatch(name), f"source {name!r} names a metric: use letters, digits, '.', '_' and '-'"

    def test_the_proportions_are_numbers_for_all_sources(self) -> None:
        windows = {name: 7 + index for index, name in enumerate(self.component.sources)}
        if not windows:
            pytest.skip(f"{type(self.component).__name__} is one source")
        proportions = self.component.proportions(windows)
        assert proportions.keys() == windows.keys(), (
            f"proportions() has {sorted(proportions)}: give {', '.join(windows)}"
        )
        valid = all(0 <= part < math.inf for part in proportions.values()) and any(proportions.values())
        remedy = "return numbers of at least 0, at least one of them above it"
        assert valid, f"proportions() is {dict(proportions)}: {remedy}"

    # --- text ---

    def test_documents_are_strings_or_can_be_iterated_again(self) -> None:
        self.skip_unless_text()
        for split in self.component.splits:
            for document in self.component.documents(split):
                if not isinstance(document, str):
                    once, again = list(document), list(document)
                    others = [type(part).__name__ for part in once if not isinstance(part, str)]
                    assert not others, f"a document of {split} contains {others[:1]}: decode it to strings"
                    remedy = "yield a string or a list, or an object that opens its source in __iter__; no generator"
                    assert once == again, f"a document of {split} cannot be iterated again: {remedy}"

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
                    f"{fraction:.0%} of document {index} of {split} are NULs: is it UTF-16? Decode it with its encoding"
                )

    def test_documents_with_split_are_those_of_the_splits(self) -> None:
        self.skip_unless_text()
        found: dict[str, list[str]] = defaultdict(list)
        marks: dict[str, list[Marks | None]] = defaultdict(list)
        for split, document in self.component.documents_with_split():
            found[split].append(join_document(document))
            marks[split] += [marks_of(document)] if join_document(document) else []
        unknown = found.keys() - set(self.component.splits)
        assert not unknown, f"documents_with_split() names {sorted(unknown)}: add them to `splits`"
        for split in self.component.splits:
            texts, assigned = ([text for text in some if text] for some in (self.texts(split), found[split]))
            remedy = "derive one from the other, or leave documents_with_split to the base class"
            assert assigned == texts, f"documents_with_split() and documents() disagree about {split}: {remedy}"
            same = marks[split] == self.marks(split)
            assert same, f"documents_with_split() and documents() mark other spans of {split}: {remedy}"

    def test_something_counts_in_every_split(self) -> None:
        self.skip_unless_text()
        for split in self.component.splits:
            counts = [spans is None or any(first < end for first, end in spans) for spans in self.marks(split)]
            assert not counts or any(counts), (
                f"no span of the documents of {split} has text: mark what is to be learnt, or yield strings"
            )

    def test_no_text_is_in_two_splits(self) -> None:
        self.skip_unless_text()
        if self.component.has_own_splits:
            pytest.skip("it has its own splits")
        home: dict[str, str] = {}
        for split in self.component.splits:
            for text in filter(None, self.texts(split)):
                assert home.setdefault(text, split) == split, (
                    f"{text[:50]!r} is in {home[text]} and in {split}: split by a hash of the text, as "
                    "api.HashSplitDataset does; or set has_own_splits = True where the source has its own splits"
                )

    # --- tokens ---

    def test_tokens_are_flat_integer_arrays(self) -> None:
        self.skip_unless_tokens()
        for split in self.component.splits:
            for piece in self.tokens(split):
                assert piece.ndim == 1, f"tokens of {split} have {piece.ndim} dimensions: flatten each array"
                is_integer = np.issubdtype(piece.dtype, np.integer)
                assert is_integer, f"tokens of {split} are {piece.dtype}: yield arrays of an integer dtype"
                remedy = "ids count from 0; is the dtype signed, but the file not?"
                assert not len(piece) or piece.min() >= 0, f"{split} holds the token {piece.min()}: {remedy}"

    def test_the_token_count_is_right_or_unknown(self) -> None:
        self.skip_unless_tokens()
        count = self.component.token_count()
        there = sum(len(piece) for split in self.component.splits for piece in self.tokens(split))
        remedy = "return the sum over all splits, or None where it is not known"
        assert count is None or count == there, f"token_count() is {count}, but there are {there}: {remedy}"

    def test_a_token_has_a_location(self) -> None:
        self.skip_unless_tokens()
        for split in self.component.splits:
            last = sum(len(piece) for piece in self.tokens(split)) - 1
            first, other = (self.component.token_location(split, index) for index in (0, last))
            remedy = "return the file and the position in it, such as 'train.bin, token 12'"
            assert first, f"token_location({split!r}, 0) is {first!r}: {remedy}"
            assert isinstance(first, str), f"token_location({split!r}, 0) is {first!r}: {remedy}"
            distinct = last == 0 or first != other
            assert distinct, f"the first and the last token of {split} are both at {first}: {remedy}"

    def test_a_vocabulary_survives_json(self) -> None:
        self.skip_unless_tokens()
        vocabulary = self.component.vocabulary()
        claim = "vocabulary() does not survive JSON: use strings as keys, and lists in place of tuples"
        with errors_as_failures(claim):
            again = None if vocabulary is None else json.loads(json.dumps(dict(vocabulary)))
        assert again == (None if vocabulary is None else dict(vocabulary)), claim


def marks_of(document: Document) -> Marks | None:
    return document.counted if isinstance(document, MarkedText) else None


def join_document(document: Document) -> str:
    return document if isinstance(document, str) else "".join(document)
