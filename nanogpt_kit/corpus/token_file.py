"""Files of token ids: without a header as nanoGPT's, with llm.c's, or NumPy's .npy, as build-nanogpt writes them.

llm.c's header is 256 int32: what the file is, a version, the number of tokens.

Source: karpathy/nanoGPT, data/openwebtext/prepare.py; karpathy/llm.c, dev/data/data_common.py; NumPy, numpy.lib.format.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.corpus.formats import HEAD_BYTES, by_magic, is_text
from nanogpt_kit.corpus.meta_pickle import read_meta_characters

HEADER_BYTES = 1024
KNOWN = {(20240520, 1): "uint16", (20240801, 7): "uint32"}  # GPT-2's tokens, Llama 3's
MAGIC = range(20_230_000, 20_400_000)  # llm.c's are dates
NPY = b"\x93NUMPY"
HEADER_FAULTS = (ValueError, TypeError, SyntaxError, TokenError, MemoryError, RecursionError, OverflowError)
PIECE = 1 << 20  # tokens that are read at once

SAMPLE_BYTES = 1 << 16  # at the beginning, in the middle and at the end, by which the width of tokens is checked
FEWEST_PAIRS = 16  # of ids that say something about it
TEXT_BYTES = 64  # of which none is a control character: shorter files might be tokens
LARGEST_UPPER, SMALL = 3, 1024  # upper halves of 32 bits where a vocabulary is below 2**18; ids that it is larger than


@dataclass(frozen=True)
class TokenFile:
    path: Path
    dtype: np.dtype[Any]  # of a token, with its byte order
    begin: int  # the byte of the first token
    count: int  # tokens
    says_dtype: bool  # whether a header does

    @staticmethod
    def vocabulary(folder: Path) -> dict[str, str] | None:
        """The characters that the ids of token files in `folder` stand for, where nanoGPT's meta.pkl lists them."""
        meta = folder / "meta.pkl"
        return {"characters": read_meta_characters(meta)} if meta.exists() else None

    @classmethod
    def open(cls, path: Path, without_header: str) -> TokenFile:
        """`without_header`: the type of tokens where no header says it. Raises KitError for what does not add up."""
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                head = file.read(HEAD_BYTES)
                file.seek(0)
                found = npy(path, file) if head.startswith(NPY) else llm_c(path, head, size)
                dtype, begin, said = found or (np.dtype(without_header).newbyteorder("<"), 0, None)
                if not found:
                    check_head(path, head)
                tokens = (size - begin) / dtype.itemsize
                if found and tokens != said:
                    raise KitError(
                        f"{path}: its header says {said} tokens, but there are {max(tokens, 0):g}; is it cut short?"
                    )
                if tokens != int(tokens):
                    what = f"{size} bytes are not a whole number of {without_header} tokens"
                    raise KitError(f"{path}: {what}; is it cut short? Or set dataset.dtype to their type")
                if not found:
                    check_width(path, file, size, without_header)
        except OSError as error:
            raise KitError(f"{path}: cannot be read: {error.strerror}") from None
        return cls(path, dtype, begin, int(tokens), found is not None)

    def pieces(self) -> Iterator[np.ndarray]:
        """The ids (n,), piece by piece."""
        with self.path.open("rb") as file:
            file.seek(self.begin)
            while len(raw := file.read(PIECE * self.dtype.itemsize)):
                yield np.frombuffer(raw, dtype=self.dtype)

    def location(self, index: int) -> str:
        """Where its token number `index` (from 0) stands, for messages."""
        read_as = "" if self.says_dtype else f", read as {self.dtype.name} (dataset.dtype)"
        return f"{self.path}: token {index} at byte {self.begin + index * self.dtype.itemsize}{read_as}"


def npy(path: Path, file: IO[bytes]) -> tuple[np.dtype[Any], int, int]:
    """The type, where the tokens begin and how many there should be; nothing is unpickled."""
    from numpy.lib import format as npy_format

    try:
        version = npy_format.read_magic(file)
        read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        shape, _, dtype = read(file)
    except HEADER_FAULTS as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise KitError(f"{path}: its .npy header is damaged, or not one that is known: {first[:200]}") from None
    if dtype.hasobject:
        raise KitError(f"{path}: a .npy file of Python objects, which is a pickle and not read; save integers")
    if dtype.kind not in "iu":
        raise KitError(f"{path}: a .npy file of {dtype}; token ids are integers, such as uint16")
    if len(shape) != 1:
        raise KitError(f"{path}: a .npy file of shape {shape}; tokens are one-dimensional, as array.reshape(-1) is")
    return dtype, file.tell(), shape[0]


def llm_c(path: Path, head: bytes, size: int) -> tuple[np.dtype[Any], int, int | None] | None:
    """The same of a file with llm.c's header; None where it has none."""
    header = np.frombuffer(head[: min(len(head), HEADER_BYTES) // 4 * 4], dtype="<i4")
    if size == 0:
        raise KitError(f"{path} is empty")
    # Tokens could begin like a header, but not be zero afterwards, where a header has nothing more to say
    if len(header) < 2 or header[0] not in MAGIC or not 0 < header[1] < 1000 or header[16:].any():
        return None
    magic, version = int(header[0]), int(header[1])
    if (magic, version) not in KNOWN:
        known = " and ".join(f"{magic} version {version}" for magic, version in KNOWN)
        raise KitError(f"{path} is of a kind that is not known: magic {magic} version {version}; known are {known}")
    dtype = np.dtype(KNOWN[magic, version]).newbyteorder("<")
    return dtype, HEADER_BYTES, int(header[2]) if len(header) > 2 else None


def check_head(path: Path, head: bytes) -> None:
    """Raises KitError for another format."""
    found = by_magic(head)
    if found:
        known = "token files are .bin, with llm.c's header or without one, or .npy"
        raise KitError(f"{path} is {found}, not a file of tokens; {known}")
    if len(head) >= TEXT_BYTES and is_text(head):
        raise KitError(f'{path} is plain text, not a file of tokens; dataset.use = "text" reads it')


def check_width(path: Path, file: IO[bytes], size: int, dtype: str) -> None:
    """Raises KitError where tokens without a header are wider than `dtype`: then every other one would be 0."""
    sample = b""
    places = (0, size // 2, size - SAMPLE_BYTES) if size > 4 * SAMPLE_BYTES else range(0, size, SAMPLE_BYTES)
    for first in places:
        file.seek(first // 8 * 8)
        read = file.read(SAMPLE_BYTES)
        sample += read[: len(read) // 8 * 8]
    width = itemsize = np.dtype(dtype).itemsize
    while width < 8 and is_wider(np.frombuffer(sample, dtype=f"<u{width}")):
        width *= 2
    if width > itemsize:
        wider = {4: "uint32", 8: "int64"}[width]
        raise KitError(
            f"{path}: every other {dtype} is 0 or nearly so, so its tokens have {8 * width} bits; "
            f'set dataset.dtype = "{wider}"'
        )


def is_wider(ids: np.ndarray) -> bool:
    """Whether pairs of `ids` are the lower and upper halves of ids of twice their width."""
    lower, upper = ids[::2], ids[1::2]
    if len(upper) < FEWEST_PAIRS or not lower.any():
        return False
    return not upper.any() or bool(
        ids.itemsize == 2 and len(upper) >= 8 * FEWEST_PAIRS and upper.max() <= LARGEST_UPPER and lower.max() >= SMALL
    )
