"""The suite for datasets fails where one is broken: each break is seen by the test beside it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from nanogpt_kit.api import Dataset, Document, Field, MarkedText
from nanogpt_kit.testing.dataset import DatasetConformance
from tests.testing.remedies import assert_fails

TEXTS = {"train": ["one", "two", "three", "four"], "val": ["five", "six"]}


class Pieces:
    def __iter__(self) -> Iterator[str]:
        yield from ("a long ", "document")


class Good(Dataset):
    """Sound text."""

    how: str = Field("", description="of what is wrong")

    @property
    def has_own_splits(self) -> bool:
        return False

    def documents(self, split: str) -> Iterator[Document]:
        yield from TEXTS[split]
        if split == "train":
            yield Pieces()

    def fingerprint(self) -> str:
        return "f"


class Broken(Good):
    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", "validation") if self.how == "a split is misnamed" else super().splits

    def documents(self, split: str) -> Iterator[Any]:
        found = list(super().documents("train" if split == "validation" else split))
        if self.how == "another order each time":
            random.Random().shuffle(found)
            found.append(str(random.random()))
        if self.how == "a split is empty" and split == "val":
            found = [""]
        if self.how == "a document is bytes":
            found.append([b"bytes"])
        if self.how == "a document is used up":
            found.append(iter(["once"]))
        if self.how == "UTF-16 as it is":
            found.append("text".encode("utf-16-le").decode())
        if self.how == "half a surrogate pair":
            found.append("a\udc00b")
        if self.how == "other marks each time":
            found.append(MarkedText("a marked text", ((0, random.randrange(1, 2**40) % 13),)))
        if self.how == "nothing counts" and split == "val":
            found = [MarkedText("five", ()), MarkedText("six", ((3, 3),))]
        if self.how == "one is marked otherwise":
            found.append(MarkedText("a marked text", ((0, 5),)))
        if self.how == "validates what it trained on" and split == "val":
            found.append("three")
        yield from found

    def documents_with_split(self) -> Iterator[tuple[str, Document]]:
        found = list(super().documents_with_split())
        if self.how == "one is marked otherwise":
            found[-1] = found[-1][0], MarkedText("a marked text", ((0, 6),))
        yield from found[:-1] if self.how == "one is not assigned" else found

    def fingerprint(self) -> Any:
        if self.how == "a fingerprint by chance":
            return str(random.random())
        return 3 if self.how == "a fingerprint that is a number" else "f"

    def text_bytes(self) -> Any:
        return 0.5 if self.how == "half a byte" else None


class BrokenTokens(Broken):
    def tokens(self, split: str) -> Iterator[np.ndarray]:
        kind = np.float32 if self.how == "tokens are fractions" else np.int32
        ids = np.arange(8, dtype=kind)
        if self.how == "a token below zero":
            ids[3] = -1
        if self.how == "tokens by chance":
            ids = np.random.default_rng().integers(0, 10**6, 8)
        if self.how == "tokens in rows":
            ids = ids.reshape(2, 4)
        return iter([ids[:0] if self.how == "no tokens" and split == "val" else ids])

    def token_count(self) -> int | None:
        return 15 if self.how == "a token too few" else 16

    def token_location(self, split: str, index: int) -> str:
        return "somewhere" if self.how == "tokens without places" else super().token_location(split, index)

    def vocabulary(self) -> Mapping[str, Any] | None:
        return {"characters": {1, 2}} if self.how == "a vocabulary that is a set" else {"characters": "ab"}


class BrokenMixture(Broken):
    @property
    def sources(self) -> dict[str, Dataset]:
        name = "two/one" if self.how == "a source is named as a path" else "one"
        inner = "a split is misnamed" if self.how == "a source lacks a split" else ""
        return {name: (BrokenMixture if self.how == "a source of sources" else Broken)(how=inner), "two": Good()}

    def proportions(self, windows: Mapping[str, int]) -> Mapping[str, float]:
        if self.how == "a source is left out":
            return {"one": 1.0}
        return dict.fromkeys(windows, -1.0 if self.how == "a proportion below zero" else 2.0)


CAUGHT: dict[str, str] = {
    "a split is misnamed": "test_train_and_val_are_among_its_splits",
    "another order each time": "test_every_pass_gives_the_same",
    "a split is empty": "test_every_split_has_something",
    "a document is bytes": "test_documents_are_strings_or_can_be_iterated_again",
    "a document is used up": "test_documents_are_strings_or_can_be_iterated_again",
    "UTF-16 as it is": "test_text_is_decoded_correctly",
    "half a surrogate pair": "test_all_text_is_unicode",
    "validates what it trained on": "test_no_text_is_in_two_splits",
    "other marks each time": "test_every_pass_gives_the_same",
    "nothing counts": "test_something_counts_in_every_split",
    "one is marked otherwise": "test_documents_with_split_are_those_of_the_splits",
    "one is not assigned": "test_documents_with_split_are_those_of_the_splits",
    "a fingerprint by chance": "test_the_fingerprint_is_a_stable_hash",
    "a fingerprint that is a number": "test_the_fingerprint_is_a_stable_hash",
    "half a byte": "test_the_text_size_is_positive_or_unknown",
}
TOKENS_CAUGHT = {
    "tokens are fractions": "test_tokens_are_flat_integer_arrays",
    "a token below zero": "test_tokens_are_flat_integer_arrays",
    "tokens in rows": "test_tokens_are_flat_integer_arrays",
    "tokens by chance": "test_every_pass_gives_the_same",
    "a token too few": "test_the_token_count_is_right_or_unknown",
    "tokens without places": "test_a_token_has_a_location",
    "no tokens": "test_every_split_has_something",
    "a vocabulary that is a set": "test_a_vocabulary_survives_json",
}


SOURCES_CAUGHT = {
    "a source is named as a path": "test_each_source_has_its_splits_and_no_sources",
    "a source lacks a split": "test_each_source_has_its_splits_and_no_sources",
    "a source of sources": "test_each_source_has_its_splits_and_no_sources",
    "a source is left out": "test_the_proportions_are_numbers_for_all_sources",
    "a proportion below zero": "test_the_proportions_are_numbers_for_all_sources",
}


def suite(component: Dataset) -> Any:
    """Outside the registry, so it is written down by hand."""
    written = {"use": "broken", **dict(component)}
    return type("Suite", (DatasetConformance,), {"component": component, "written": lambda _: written})()


@pytest.mark.parametrize(
    ("kind", "how", "test"),
    [(Broken, *case) for case in CAUGHT.items()]
    + [(BrokenTokens, *case) for case in TOKENS_CAUGHT.items()]
    + [(BrokenMixture, *case) for case in SOURCES_CAUGHT.items()],
)
def test_a_broken_dataset_is_caught(kind: type[Dataset], how: str, test: str) -> None:
    getattr(suite(kind(how="")), test)()
    assert_fails(suite(kind(how=how)), test)
