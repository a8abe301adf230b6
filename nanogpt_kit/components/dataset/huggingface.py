"""Any dataset of the Hugging Face hub, or local files in its formats, through the `datasets` library.

It is streamed unless told otherwise, since its text is needed once: what is kept are tokens, and a copy of the text
would take several times their room. A line of a .txt is a document here, as the library has it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
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
    source: PathStr = Field(min_length=1, description="a name on the hub, or a local file, folder or glob")
    config: str | None = Field(None, min_length=1, description="subset of a dataset that has several")
    train: str = Field("train", min_length=1, description="split of the source to train on")
    val: str | None = Field(
        None, min_length=1, description="split of the source that validates; left out: a share of train"
    )
    test: str | None = Field(
        None, min_length=1, description="split of the source to test on, beside a val; left out: none"
    )
    field: str = Field("text", min_length=1, description="the column that holds the text")
    revision: str | None = Field(
        None, min_length=1, description="branch, tag or commit on the hub; left out: its newest"
    )
    streaming: bool = Field(True, description="whether to read while tokenizing; false: download and convert all first")

    @model_validator(mode="after")
    def _splits_are_named_or_cut(self) -> Self:
        if self.test and not self.val:
            raise option_error("test", "needs a val split beside it; or leave it out and set test_fraction")
        if self.val and self.test_fraction:
            raise option_error(
                "test_fraction", f"should be 0 where val names a split ({self.val!r}); name one with test, too"
            )
        for option, name, others in (("val", self.val, [self.train]), ("test", self.test, [self.train, self.val])):
            if name and name in others:
                raise option_error(option, f"should be a split of its own, and {name!r} is named twice")
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
            raise KitError(f"dataset.revision: {self.source!r} is here, and not on the hub; leave it out")
        if self.config and local.is_file():
            raise KitError(f"dataset.config: {self.source!r} is a file and has no subsets; leave it out")
        shares = [] if self.val else [self.val_fraction, self.test_fraction]
        return sha256(json.dumps([self._text().identity(), self._names(), shares]).encode()).hexdigest()

    def text_bytes(self) -> int | None:
        return self._text().text_bytes(self._names().values())

    def _names(self) -> dict[str, str]:
        """Ours to theirs, of those that are read."""
        names = {"train": self.train, "val": self.val, "test": self.test}
        return {split: name for split, name in names.items() if name}

    def _text(self) -> HubText:
        return HubText(self.source, self.config, self.revision, self.field, self.streaming)
