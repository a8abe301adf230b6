"""Any dataset of the Hugging Face hub, or local files in its formats, through the `datasets` library.

Streamed by default, since the text is read only once: a stored copy would take several times the space of the tokens.
Each line of a .txt is a document, as in the library.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Self

from nanogpt_kit.api import (
    Dataset,
    Document,
    Field,
    HashSplitDataset,
    HubText,
    KitError,
    PathStr,
    model_validator,
    option_error,
)


class HuggingFace(HashSplitDataset):
    source: PathStr = Field(min_length=1, description="name on the hub, or a local file, folder or glob")
    config: str | None = Field(None, min_length=1, description="name of the subset, for a dataset with several")
    train: str = Field("train", min_length=1, description="split of the source used for training")
    val: str | None = Field(
        None, min_length=1, description="split of the source used for validation; omitted: a fraction of train"
    )
    test: str | None = Field(
        None, min_length=1, description="split of the source used as test split, requires val; omitted: no test split"
    )
    field: str = Field("text", min_length=1, description="column that contains the text")
    revision: str | None = Field(
        None, min_length=1, description="branch, tag or commit on the hub; omitted: the newest commit"
    )
    streaming: bool = Field(
        True, description="true: download while tokenizing; false: download and convert everything first"
    )

    @model_validator(mode="after")
    def _check_splits(self) -> Self:
        if self.test and not self.val:
            message = f"test = {self.test!r} requires val to name a split; or omit test and set test_fraction"
            raise option_error("test", message, "val")
        if self.val and self.test_fraction:
            raise option_error(
                "test_fraction",
                f"test_fraction ({self.test_fraction}) should be 0 where val names a split ({self.val!r}); set test",
                "val",
            )
        named = {"train": self.train, "val": self.val, "test": self.test}
        for first, second in combinations(named, 2):
            if named[first] == named[second] is not None:
                message = f"{first} and {second} should be different splits, and both are {named[first]!r}"
                raise option_error(second, message, first)
        return self

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._names()) if self.val else super().splits

    @property
    def has_own_splits(self) -> bool:
        return self.val is not None

    def all_documents(self) -> Iterator[Document]:
        return self._text().texts(self.train)

    def documents(self, split: str) -> Iterator[Document]:
        return self._text().texts(self._names()[split]) if self.val else super().documents(split)

    def documents_with_split(self) -> Iterator[tuple[str, Document]]:
        return Dataset.documents_with_split(self) if self.val else super().documents_with_split()

    def fingerprint(self) -> str:
        local = Path(self.source)
        if self.revision and local.exists():
            raise KitError(f"dataset.revision: {self.source!r} is local, not on the hub; omit revision")
        if self.config and local.is_file():
            raise KitError(f"dataset.config: {self.source!r} is a file and has no subsets; omit config")
        fractions = [] if self.val else [self.val_fraction, self.test_fraction]
        return sha256(json.dumps([self._text().identity(), self._names(), fractions]).encode()).hexdigest()

    def check_source(self) -> None:
        self._text().check_source()

    def text_bytes(self) -> int | None:
        return self._text().text_bytes(self._names().values())

    def _names(self) -> dict[str, str]:
        """The split of the source for each split here."""
        names = {"train": self.train, "val": self.val, "test": self.test}
        return {split: name for split, name in names.items() if name}

    def _text(self) -> HubText:
        return HubText(self.source, self.config, self.revision, self.field, self.streaming)
