"""Tokens that were made elsewhere: nanoGPT's train.bin and val.bin, the shards of llm.c, modded-nanogpt, build-nanogpt.

nanoGPT's hold nothing but tokens, of the type that `dtype` says. The others say it themselves: see TokenFile.
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

SPLIT = re.compile(r"(?<![a-z])(train|val)")


class TokenFiles(Dataset):
    source: PathStr = Field(min_length=1, description="the folder of the token files")
    train: PathStr | None = Field(
        None,
        min_length=1,
        description="train's files in the source folder, a name or glob; left out: .bin or .npy with train in the name",
    )
    val: PathStr | None = Field(
        None,
        min_length=1,
        description="val's files in the source folder, a name or glob; left out: .bin or .npy with val in the name",
    )
    dtype: Literal["uint16", "uint32", "int32", "int64"] = Field(
        "uint16", description="type of tokens in .bin files without a header, little-endian"
    )

    def documents(self, split: str) -> Iterator[Document]:
        raise KitError(
            f"dataset.source: {self.source!r} holds tokens, not text; name the tokenizer that made them, "
            'such as tokenizer.use = "gpt2"'
        )

    def tokens(self, split: str) -> Iterator[np.ndarray]:
        files = self._opened(split)  # all faults before any token
        return (piece for file in files for piece in file.pieces())

    def token_count(self) -> int:
        return sum(file.count for split in self.splits for file in self._opened(split))

    def token_place(self, split: str, index: int) -> str:
        for file in self._opened(split):
            if index < file.count:
                return file.location(index)
            index -= file.count
        return super().token_place(split, index)

    def vocabulary(self) -> Mapping[str, Any] | None:
        return TokenFile.vocabulary(Path(self.source))

    def fingerprint(self) -> str:
        contents = [[content_hash(path) for path in self._files(split)] for split in self.splits]
        return sha256(json.dumps([contents, self.dtype, self.vocabulary()]).encode()).hexdigest()

    def _opened(self, split: str) -> list[TokenFile]:
        return [TokenFile.open(path, self.dtype) for path in self._files(split)]

    def _files(self, split: str) -> list[Path]:
        """Sorted by name. Raises KitError where there are none, or a name says both."""
        folder, wanted = Path(self.source), self.train if split == "train" else self.val
        if not folder.is_dir():
            raise KitError(f"dataset.source: {self.source!r} is no folder (from {Path.cwd()})")
        patterns = [wanted] if wanted else ["*.bin", "*.npy"]
        matches = [
            found for pattern in patterns for found in glob.glob(os.path.join(glob.escape(self.source), pattern))
        ]
        found = sorted(path for path in map(Path, matches) if path.is_file())
        if wanted and (folder / wanted).is_file():  # a name that looks like a glob
            found = [folder / wanted]
        if wanted is None:
            said = {path: set(SPLIT.findall(path.name.lower())) for path in found}
            both = [path for path in found if len(said[path]) == 2]
            if both:
                raise KitError(f"{both[0]}: its name says train and val; set dataset.train and dataset.val")
            found = [path for path in found if split in said[path]]
            if len({path.suffix for path in found}) == 2:
                two = f"dataset.{split}: {self.source!r} has .bin and .npy files with {split!r} in their names"
                raise KitError(f'{two}; choose, as in dataset.{split} = "*{split}*.bin"')
        if not found:
            what = f"files that match {wanted!r}" if wanted else f".bin or .npy files with {split!r} in their names"
            raise KitError(f"dataset.{split}: {self.source!r} has no {what}")
        return found
