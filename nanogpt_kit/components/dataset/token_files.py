"""Token files of other programs: nanoGPT's train.bin and val.bin, shards of llm.c, modded-nanogpt and build-nanogpt.

nanoGPT's files contain only tokens, of the type `dtype`. The others have a header, or are .npy files, with the type.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nanogpt_kit.api import Dataset, Document, Field, KitError, PathStr, TokenFile, content_hash

SPLIT_IN_NAME = re.compile(r"(?<![a-z])(train|val)")


class TokenFiles(Dataset):
    source: PathStr = Field(min_length=1, description="folder that contains the token files")
    train: PathStr | None = Field(
        None,
        min_length=1,
        description="training files, a name or glob in the source folder; omitted: .bin or .npy with train in the name",
    )
    val: PathStr | None = Field(
        None,
        min_length=1,
        description="validation files, a name or glob in the source folder; omitted: .bin or .npy with val in the name",
    )
    dtype: Literal["uint16", "uint32", "int32", "int64"] = Field(
        "uint16", description="type of the tokens in .bin files without a header, little-endian"
    )

    def documents(self, split: str) -> Iterator[Document]:
        raise KitError(
            f"dataset.source: {self.source!r} contains tokens, not text; set the tokenizer that made them, "
            'such as tokenizer.use = "gpt2"'
        )

    def tokens(self, split: str) -> Iterator[np.ndarray]:
        files = self._open(split)  # reports all faults before any token is read
        return (ids for file in files for ids in file.chunks())

    def token_count(self) -> int:
        return sum(file.count for split in self.splits for file in self._open(split))

    def token_location(self, split: str, index: int) -> str:
        for file in self._open(split):
            if index < file.count:
                return file.location(index)
            index -= file.count
        return super().token_location(split, index)

    def vocabulary(self) -> Mapping[str, Any] | None:
        return TokenFile.vocabulary(Path(self.source) / "meta.pkl")

    def fingerprint(self) -> str:
        contents = [[content_hash(path) for path in self._files(split)] for split in self.splits]
        return sha256(json.dumps([contents, self.dtype, self.vocabulary()]).encode()).hexdigest()

    def check_source(self) -> None:
        for split in self.splits:
            self._files(split)

    def _open(self, split: str) -> list[TokenFile]:
        return [TokenFile.open(path, self.dtype) for path in self._files(split)]

    def _files(self, split: str) -> list[Path]:
        """Sorted by name. Raises KitError where there are none, or where a name contains train and val."""
        folder, pattern = Path(self.source), self.train if split == "train" else self.val
        if not folder.is_dir():
            raise KitError(f"dataset.source: {self.source!r} is not a folder, relative to {Path.cwd()}")
        patterns = [pattern] if pattern else ["*.bin", "*.npy"]
        matches = [match for glob_ in patterns for match in glob.glob(os.path.join(glob.escape(self.source), glob_))]
        files = sorted(path for path in map(Path, matches) if path.is_file())
        if pattern and (folder / pattern).is_file():  # a name that looks like a glob
            files = [folder / pattern]
        if pattern is None:
            splits = {path: set(SPLIT_IN_NAME.findall(path.name.lower())) for path in files}
            both = [path for path in files if len(splits[path]) == 2]
            if both:
                raise KitError(f"{both[0]}: its name contains train and val; set dataset.train and dataset.val")
            files = [path for path in files if split in splits[path]]
            if len({path.suffix for path in files}) == 2:
                two = f"dataset.{split}: {self.source!r} has .bin and .npy files with {split!r} in their names"
                raise KitError(f'{two}; choose, as in dataset.{split} = "*{split}*.bin"')
        if not files:
            what = f"files that match {pattern!r}" if pattern else f".bin or .npy files with {split!r} in their names"
            raise KitError(f"dataset.{split}: {self.source!r} has no {what}")
        return files
