"""Datasets that come without splits: the hash of a document decides its split.

Equal documents are always in the same split and, once all splits are filled, adding a document moves no other.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import chain
from typing import Self

from pydantic import Field, model_validator

from nanogpt_kit.core.errors import KitError, option_error
from nanogpt_kit.core.kinds.marked_text import MarkedText
from nanogpt_kit.core.kinds.text import Dataset, Document

MAX_SCANNED_DOCUMENTS = 100_000  # distinct ones; a split that is still empty then may stay empty: bounds memory


class LongDocument(ABC):
    """A document too long for memory, whose length can be counted and which can be read from any character on."""

    def __iter__(self) -> Iterator[str]:
        return self.since(0)

    @abstractmethod
    def characters(self) -> int:
        """The length. Not `__len__`, since `list` would call it to allocate memory."""

    @abstractmethod
    def since(self, first: int) -> Iterator[str]:
        """The text from character `first` on, in slices."""


class HashSplitDataset(Dataset):
    """A dataset that splits `all_documents` by hash; empty documents belong to no split."""

    val_fraction: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="fraction of the documents used for validation; of the characters of a single document",
    )
    test_fraction: float = Field(
        0.0, ge=0, lt=1, description="fraction of the documents used for the test split; 0: no test split"
    )

    @abstractmethod
    def all_documents(self) -> Iterator[Document]:
        """All documents in an order that never changes. Raises KitError for text it cannot read."""

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> Self:
        if self.val_fraction + self.test_fraction >= 1:
            raise option_error(
                "val_fraction",
                f"val_fraction ({self.val_fraction}) plus test_fraction ({self.test_fraction}) should be less than 1, "
                "to leave text to train on",
                "test_fraction",
            )
        return self

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", "val", "test") if self.test_fraction else ("train", "val")

    @property
    def has_own_splits(self) -> bool:
        return False

    def documents(self, split: str) -> Iterator[Document]:
        return (document for own, document in self.documents_with_split() if own == split and not is_empty(document))

    def documents_with_split(self) -> Iterator[tuple[str, Document]]:
        single, split_of_few = self._scan()
        if single is not None:
            yield from self._split_single(single)
            return
        for document in self.all_documents():
            if is_empty(document):
                yield "train", document  # to be counted
                continue
            digest = document_digest(document)
            yield (split_of_few[digest] if split_of_few else self._split_of(digest)), document

    def _split_of(self, digest: bytes) -> str:
        fraction = hash_fraction(digest)
        if fraction < self.val_fraction:
            return "val"
        return "test" if fraction < self.val_fraction + self.test_fraction else "train"

    def _scan(self) -> tuple[Document | None, dict[bytes, str] | None]:
        """(the only distinct document, None), or (None, the split of each) where hashes do not fill all splits."""
        documents = (document for document in self.all_documents() if not is_empty(document))
        first, second = next(documents, None), next(documents, None)
        if first is None:
            raise self._fault("contains no text: every document is empty")
        if second is None:
            return first, None
        digests: set[bytes] = set()
        filled: set[str] = set()
        for document in chain((first, second), documents):
            digest = document_digest(document)
            digests.add(digest)
            filled.add(self._split_of(digest))
            if len(filled) == len(self.splits) or len(digests) > MAX_SCANNED_DOCUMENTS:
                return None, None
        if len(digests) == 1:
            return first, None
        if len(digests) < len(self.splits):
            raise self._fault(
                f"contains {len(digests)} documents, too few for {len(self.splits)} splits; remove test_fraction"
            )
        names = (*self.splits[1:], *["train"] * len(digests))  # the lowest digest is for validation
        return None, dict(zip(sorted(digests), names, strict=False))

    def _split_single(self, document: Document) -> Iterator[tuple[str, Document]]:
        """A single document: train, then val, then test at its end."""
        length = count_characters(document)
        cuts = [
            int(length * (1 - fraction)) for fraction in (1, self.val_fraction + self.test_fraction, self.test_fraction)
        ]
        for split, first, last in zip(self.splits, cuts, (*cuts[1:], length), strict=False):
            yield split, document_range(document, first, last)

    def _fault(self, message: str) -> KitError:
        source = getattr(self, "source", None)
        return KitError(f"dataset.source: {source!r} {message}" if source else f"the dataset {message}")


def document_range(document: Document, first: int, last: int) -> Document:
    """Characters `first` to `last` of a document."""
    if isinstance(document, MarkedText):
        return document.part(first, last)
    return document[first:last] if isinstance(document, str) else DocumentRange(document, first, last)


class DocumentRange:
    """Characters `first` to `last` of a document, in slices."""

    def __init__(self, document: Document, first: int, last: int) -> None:
        self.document, self.first, self.last = document, first, last

    def __iter__(self) -> Iterator[str]:
        left = self.last - self.first
        for text in slices_from(self.document, self.first):
            if text[:left]:
                yield text[:left]
            left -= len(text)
            if left <= 0:
                return


def document_slices(document: Document) -> Iterator[str]:
    """The text of a document in consecutive slices of any length."""
    return iter((document,) if isinstance(document, str) else document)


def slices_from(document: Document, first: int) -> Iterator[str]:
    """The text of a document from character `first` on, in slices."""
    if isinstance(document, LongDocument):
        yield from document.since(first)
        return
    for text in document_slices(document):
        yield text[first:]
        first = max(0, first - len(text))


def count_characters(document: Document) -> int:
    return document.characters() if isinstance(document, LongDocument) else sum(map(len, document_slices(document)))


def is_empty(document: Document) -> bool:
    return not any(document_slices(document))


def document_digest(document: Document) -> bytes:
    """SHA-256 of a document's UTF-8."""
    sha256 = hashlib.sha256()
    for text in document_slices(document):
        sha256.update(text.encode("utf-8", "surrogatepass"))
    return sha256.digest()


def hash_fraction(digest: bytes) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(digest[:8]) / 2**64
