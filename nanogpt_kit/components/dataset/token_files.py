"""Tokens that were made elsewhere: nanoGPT's train.bin and val.bin, and the shards of llm.c and modded-nanogpt.

nanoGPT's hold nothing but tokens. The others begin with 256 int32: what they are, a version, the number of tokens.

Source: karpathy/nanoGPT, data/openwebtext/prepare.py; karpathy/llm.c, dev/data/data_common.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nanogpt_kit.api import Dataset, Document, Field, KitError, characters, content_hash

HEADER_BYTES = 1024
KNOWN = {(20240520, 1): "uint16", (20240801, 7): "uint32"}  # GPT-2's tokens, Llama 3's
MAGIC = range(20_230_000, 20_400_000)  # llm.c's are dates
PIECE = 1 << 20  # tokens
SPLIT = re.compile(r"(?<![a-z])(train|val)")


class TokenFiles(Dataset):
    source: str = Field(min_length=1, description="the folder that holds the files")
    train: str | None = Field(
        None, min_length=1, description="name or glob in it; left out: .bin files with train in their names"
    )
    val: str | None = Field(
        None, min_length=1, description="name or glob in it; left out: .bin files with val in their names"
    )
    dtype: Literal["uint16", "uint32"] = Field("uint16", description="of a token in files without a header")

    def documents(self, split: str) -> Iterator[Document]:
        raise KitError(
            f"dataset.source: {self.source!r} holds tokens, not text; name the tokenizer that made them, "
            'such as tokenizer.use = "gpt2"'
        )

    def tokens(self, split: str) -> Iterator[np.ndarray]:
        layouts = [(path, *layout(path, self.dtype)) for path in self._files(split)]  # all faults before any token
        return (piece for path, dtype, begin in layouts for piece in pieces(path, dtype, begin))

    def token_count(self) -> int:
        layouts = [(path, *layout(path, self.dtype)) for split in self.splits for path in self._files(split)]
        return sum((path.stat().st_size - begin) // np.dtype(dtype).itemsize for path, dtype, begin in layouts)

    def vocabulary(self) -> Mapping[str, Any] | None:
        meta = Path(self.source) / "meta.pkl"
        return {"characters": characters(meta)} if meta.exists() else None

    def fingerprint(self) -> str:
        contents = [[content_hash(path) for path in self._files(split)] for split in self.splits]
        return sha256(json.dumps([contents, self.dtype, self.vocabulary()]).encode()).hexdigest()

    def _files(self, split: str) -> list[Path]:
        """Sorted by name. Raises KitError where there are none, or a name says both."""
        folder, wanted = Path(self.source), self.train if split == "train" else self.val
        if not folder.is_dir():
            raise KitError(f"dataset.source: {self.source!r} is no folder (from {Path.cwd()})")
        found = sorted(path for path in folder.glob(wanted or "*.bin") if path.is_file())
        if wanted is None:
            said = {path: set(SPLIT.findall(path.name.lower())) for path in found}
            both = [path for path in found if len(said[path]) == 2]
            if both:
                raise KitError(f"{both[0]}: its name says train and val; set dataset.train and dataset.val")
            found = [path for path in found if split in said[path]]
        if not found:
            what = f"files that match {wanted!r}" if wanted else f".bin files with {split!r} in their names"
            raise KitError(f"dataset.{split}: {self.source!r} has no {what}")
        return found


def layout(path: Path, without_header: str) -> tuple[str, int]:
    """The dtype of a file's tokens, and the byte where they begin. Raises KitError for what does not add up."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header = np.frombuffer(file.read(min(size, HEADER_BYTES) // 4 * 4), dtype="<i4")
    if size == 0:
        raise KitError(f"{path} is empty")
    # Tokens could begin like a header, but not be zero afterwards, where a header has nothing more to say
    if len(header) < 2 or header[0] not in MAGIC or not 0 < header[1] < 1000 or header[16:].any():
        if size % np.dtype(without_header).itemsize:
            raise KitError(f"{path}: {size} bytes are no whole number of {without_header} tokens; is it cut short?")
        return without_header, 0
    magic, version = int(header[0]), int(header[1])
    if (magic, version) not in KNOWN:
        known = " and ".join(f"{magic} version {version}" for magic, version in KNOWN)
        raise KitError(f"{path} is of a kind that is not known: magic {magic} version {version}; known are {known}")
    dtype = KNOWN[magic, version]
    held = (size - HEADER_BYTES) / np.dtype(dtype).itemsize
    said = int(header[2]) if len(header) > 2 else None
    if held != said:
        raise KitError(f"{path}: its header says {said} tokens, but there are {max(held, 0):g}; is it cut short?")
    return dtype, HEADER_BYTES


def pieces(path: Path, dtype: str, begin: int) -> Iterator[np.ndarray]:
    with path.open("rb") as file:
        file.seek(begin)
        while len(raw := file.read(PIECE * np.dtype(dtype).itemsize)):
            yield np.frombuffer(raw, dtype=np.dtype(dtype).newbyteorder("<"))
