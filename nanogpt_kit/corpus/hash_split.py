"""Datasets that come without splits: a hash of each text decides where it goes.

Equal documents never end up in two splits and, once there are enough to fill all, adding one moves no other.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import chain
from typing import Self

from pydantic import Field, model_validator

from nanogpt_kit.core.errors import KitError, option_error
from nanogpt_kit.core.kinds.text import Dataset, Document

FEW = 100_000  # distinct documents after which a split that is still empty may stay so: bounds memory


class LongDocument(ABC):
    """A document too long to hold that knows its length and can be entered in the middle."""

    def __iter__(self) -> Iterator[str]:
        return self.since(0)

    @abstractmethod
    def characters(self) -> int:
        """How many there are. No `__len__`, which `list` would ask for and make room by."""

    @abstractmethod
    def since(self, first: int) -> Iterator[str]:
        """Pieces of the text from the character `first` on."""


class HashSplitDataset(Dataset):
    """Yields `all_documents`; empty ones do not count."""

    val_fraction: float = Field(0.1, gt=0, lt=1, description="share of validation: of documents, or of a single one")
    test_fraction: float = Field(0.0, ge=0, lt=1, description="share of the test split; 0: there is none")

    @abstractmethod
    def all_documents(self) -> Iterator[Document]:
        """In an order that never changes. Raises KitError for text it cannot read."""

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> Self:
        if self.val_fraction + self.test_fraction >= 1:
            raise option_error(
                "val_fraction", f"and test_fraction ({self.test_fraction}) should leave a share for training"
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
        single, few = self._looked_over()
        if single is not None:
            yield from self._cut(single)
            return
        for document in self.all_documents():
            if is_empty(document):
                yield "train", document  # to be counted
                continue
            digest = digest_of(document)
            yield (few[digest] if few else self._split_at(place(digest))), document

    def _split_at(self, place: float) -> str:
        if place < self.val_fraction:
            return "val"
        return "test" if place < self.val_fraction + self.test_fraction else "train"

    def _looked_over(self) -> tuple[Document | None, dict[bytes, str] | None]:
        """The only document, equal ones being one; or the split of each, where their hashes do not fill all splits."""
        documents = (document for document in self.all_documents() if not is_empty(document))
        first, second = next(documents, None), next(documents, None)
        if first is None:
            raise self._fault("holds no text: every document is empty")
        if second is None:
            return first, None
        found: set[bytes] = set()
        filled: set[str] = set()
        for document in chain((first, second), documents):
            digest = digest_of(document)
            found.add(digest)
            filled.add(self._split_at(place(digest)))
            if len(filled) == len(self.splits) or len(found) > FEW:
                return None, None
        if len(found) == 1:
            return first, None
        if len(found) < len(self.splits):
            raise self._fault(
                f"holds {len(found)} documents, too few for {len(self.splits)} splits; drop test_fraction"
            )
        names = (*self.splits[1:], *["train"] * len(found))  # the lowest validates
        return None, dict(zip(sorted(found), names, strict=False))

    def _cut(self, document: Document) -> Iterator[tuple[str, Document]]:
        """A single document: train, then val, then test at its tail."""
        length = characters_of(document)
        cuts = [int(length * (1 - share)) for share in (1, self.val_fraction + self.test_fraction, self.test_fraction)]
        for split, first, last in zip(self.splits, cuts, (*cuts[1:], length), strict=False):
            yield split, (document[first:last] if isinstance(document, str) else Part(document, first, last))

    def _fault(self, message: str) -> KitError:
        source = getattr(self, "source", None)
        return KitError(f"dataset.source: {source!r} {message}" if source else f"the dataset {message}")


class Part:
    """Characters `first` to `last` of a document, in pieces."""

    def __init__(self, document: Document, first: int, last: int) -> None:
        self.document, self.first, self.last = document, first, last

    def __iter__(self) -> Iterator[str]:
        left = self.last - self.first
        for piece in since(self.document, self.first):
            if piece[:left]:
                yield piece[:left]
            left -= len(piece)
            if left <= 0:
                return


def pieces(document: Document) -> Iterator[str]:
    return iter((document,) if isinstance(document, str) else document)


def since(document: Document, first: int) -> Iterator[str]:
    """Pieces of a document from the character `first` on."""
    if isinstance(document, LongDocument):
        yield from document.since(first)
        return
    for piece in pieces(document):
        yield piece[first:]
        first = max(0, first - len(piece))


def characters_of(document: Document) -> int:
    return document.characters() if isinstance(document, LongDocument) else sum(map(len, pieces(document)))


def is_empty(document: Document) -> bool:
    return not any(pieces(document))


def digest_of(document: Document) -> bytes:
    """SHA-256 of a document's UTF-8."""
    hashed = hashlib.sha256()
    for piece in pieces(document):
        hashed.update(piece.encode("utf-8", "surrogatepass"))
    return hashed.digest()


def place(digest: bytes) -> float:
    """In [0, 1), by the text alone."""
    return int.from_bytes(digest[:8]) / 2**64
