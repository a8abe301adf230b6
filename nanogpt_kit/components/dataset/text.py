"""Your own text, by path, glob or folder: plain text, .jsonl (a document per line), .csv, .tsv, .parquet (per row).

Each also as .gz or .zst. In folders, all that is plain text by its content is read; hidden files, folders that programs
generate, tables without the column, .json and other data are left out, as the log says. Files are streamed: memory
holds one line or row, never a whole file. The hash of a document decides its split; the end of a single document is the
validation split.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from typing import Annotated, Literal

from nanogpt_kit.api import Document, Field, HashSplitDataset, PathStr, TextFile, content_hash, text_files


class Text(HashSplitDataset):
    source: PathStr | tuple[PathStr, ...] = Field(
        description="text files, globs or folders, relative to the current folder"
    )
    field: str = Field("text", description="key (.jsonl) or column (.csv, .tsv, .parquet) that contains the text")
    errors: Literal["strict", "replace"] = Field(
        "strict", description="treatment of invalid UTF-8 and NULs: an error, or replacement by U+FFFD"
    )
    suffixes: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), description='endings of the files that are read in folders, such as [".md", ".py"]; empty: all plain text'
    )

    def all_documents(self) -> Iterator[Document]:
        for file in self._files():
            yield from file.documents()

    def fingerprint(self) -> str:
        options = [self.field, self.errors, self.val_fraction, self.test_fraction]
        contents = [[file.format, file.codec, content_hash(file.path)] for file in self._files()]
        return sha256(json.dumps([options, contents]).encode()).hexdigest()

    def text_bytes(self) -> int | None:
        sizes = [file.text_bytes() for file in self._files()]
        return None if None in sizes else sum(size or 0 for size in sizes)

    def _files(self) -> list[TextFile]:
        return text_files(self.source, self.field, self.errors, self.suffixes)

    def check_source(self) -> None:
        text_files(self.source, self.field, self.errors, self.suffixes, with_check=True)
