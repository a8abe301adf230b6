"""Files of token ids: nanoGPT's without a header, llm.c's with one, and NumPy's .npy as build-nanogpt writes it.

llm.c's header is 256 int32: a magic number, a version, the count of tokens.

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
from nanogpt_kit.corpus.file_signatures import HEAD_BYTES, detect_format, is_text
from nanogpt_kit.corpus.meta_pickle import read_meta_characters

HEADER_BYTES = 1024
LLM_C_DTYPES = {(20240520, 1): "uint16", (20240801, 7): "uint32"}  # (magic, version): GPT-2's tokens, Llama 3's
LLM_C_MAGIC = range(20_230_000, 20_400_000)  # llm.c uses dates
NPY = b"\x93NUMPY"
HEADER_FAULTS = (ValueError, TypeError, SyntaxError, TokenError, MemoryError, RecursionError, OverflowError)
READ_TOKENS = 1 << 20  # at once

SAMPLE_BYTES = 1 << 16  # from the beginning, the middle and the end, by which the width of tokens is checked
MIN_PAIRS = 16  # of ids; fewer prove nothing
MIN_TEXT_BYTES = 64  # without a control character; shorter files might be tokens
MAX_UPPER_HALF = 3  # of 32 bits, where the vocabulary is below 2**18
MIN_LARGEST_ID = 1024  # of 16 bits in use


@dataclass(frozen=True)
class TokenFile:
    """A file of token ids, with the facts of its header or of the dataset's options."""

    path: Path
    dtype: np.dtype[Any]  # of a token, with its byte order
    offset: int  # of the first token, in bytes
    count: int  # tokens
    has_header: bool

    @staticmethod
    def vocabulary(meta: Path) -> dict[str, str] | None:
        """The characters that token ids stand for, by nanoGPT's meta.pkl; None where there is no such file."""
        return {"characters": read_meta_characters(meta)} if meta.exists() else None

    @classmethod
    def open(cls, path: Path, default_dtype: str) -> TokenFile:
        """`default_dtype` applies where no header names one. Raises KitError for a file that is inconsistent."""
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                head = file.read(HEAD_BYTES)
                file.seek(0)
                header = read_npy_header(path, file) if head.startswith(NPY) else read_llm_c_header(path, head, size)
                dtype, offset, expected = header or (np.dtype(default_dtype).newbyteorder("<"), 0, None)
                if not header:
                    check_head(path, head)
                tokens = (size - offset) / dtype.itemsize
                if header and tokens != expected:
                    what = f"its header records {expected} tokens, but there are {max(tokens, 0):g}"
                    raise KitError(f"{path}: {what}; perhaps it is cut short")
                if tokens != int(tokens):
                    what = f"{size} bytes are not a whole number of {default_dtype} tokens"
                    raise KitError(f"{path}: {what}; perhaps it is cut short, or set dataset.dtype to their type")
                if not header:
                    check_width(path, file, size, default_dtype)
        except OSError as error:
            raise KitError(f"{path}: cannot be read: {error.strerror}") from None
        return cls(path, dtype, offset, int(tokens), header is not None)

    def chunks(self) -> Iterator[np.ndarray]:
        """The ids, in arrays (n,)."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            while len(raw := file.read(READ_TOKENS * self.dtype.itemsize)):
                yield np.frombuffer(raw, dtype=self.dtype)

    def location(self, index: int) -> str:
        """The location of the token with an index (from 0), for messages."""
        read_as = "" if self.has_header else f", read as {self.dtype.name} (dataset.dtype)"
        return f"{self.path}: token {index} at byte {self.offset + index * self.dtype.itemsize}{read_as}"


def read_npy_header(path: Path, file: IO[bytes]) -> tuple[np.dtype[Any], int, int]:
    """(dtype, offset of the first token in bytes, count of tokens); nothing is unpickled."""
    from numpy.lib import format as npy_format

    try:
        version = npy_format.read_magic(file)
        read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        shape, _, dtype = read(file)
    except HEADER_FAULTS as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise KitError(f"{path}: its .npy header is damaged or unknown: {first[:200]}") from None
    if dtype.hasobject:
        raise KitError(f"{path}: a .npy file of Python objects, which is a pickle and is not read; save integers")
    if dtype.kind not in "iu":
        raise KitError(f"{path}: a .npy file of {dtype}; token ids are integers, such as uint16")
    if len(shape) != 1:
        raise KitError(f"{path}: a .npy file of shape {shape}; tokens are one-dimensional, as array.reshape(-1) is")
    return dtype, file.tell(), shape[0]


def read_llm_c_header(path: Path, head: bytes, size: int) -> tuple[np.dtype[Any], int, int | None] | None:
    """The same for a file with llm.c's header; None where it has no such header."""
    header = np.frombuffer(head[: min(len(head), HEADER_BYTES) // 4 * 4], dtype="<i4")
    if size == 0:
        raise KitError(f"{path} is empty")
    # Tokens could begin like a header, but would not be zero in the rest, which a header leaves empty
    if len(header) < 2 or header[0] not in LLM_C_MAGIC or not 0 < header[1] < 1000 or header[16:].any():
        return None
    magic, version = int(header[0]), int(header[1])
    if (magic, version) not in LLM_C_DTYPES:
        known = " and ".join(f"{magic} version {version}" for magic, version in LLM_C_DTYPES)
        raise KitError(f"{path} is of an unknown kind: magic {magic} version {version}; known: {known}")
    dtype = np.dtype(LLM_C_DTYPES[magic, version]).newbyteorder("<")
    return dtype, HEADER_BYTES, int(header[2]) if len(header) > 2 else None


def check_head(path: Path, head: bytes) -> None:
    """Raises KitError where the first bytes are those of another format."""
    content = detect_format(head)
    if content:
        known = "token files are .bin, with llm.c's header or without one, or .npy"
        raise KitError(f"{path} is {content}, not a file of tokens; {known}")
    if len(head) >= MIN_TEXT_BYTES and is_text(head):
        raise KitError(f'{path} is plain text, not a file of tokens; dataset.use = "text" reads it')


def check_width(path: Path, file: IO[bytes], size: int, dtype: str) -> None:
    """Raises KitError where tokens without a header are wider than `dtype`: every other one would be 0."""
    sample = b""
    offsets = (0, size // 2, size - SAMPLE_BYTES) if size > 4 * SAMPLE_BYTES else range(0, size, SAMPLE_BYTES)
    for offset in offsets:
        file.seek(offset // 8 * 8)
        raw = file.read(SAMPLE_BYTES)
        sample += raw[: len(raw) // 8 * 8]
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
    """True where pairs of `ids` are the lower and upper halves of ids of twice their width."""
    lower, upper = ids[::2], ids[1::2]
    if len(upper) < MIN_PAIRS or not lower.any():
        return False
    return not upper.any() or bool(
        ids.itemsize == 2
        and len(upper) >= 8 * MIN_PAIRS
        and upper.max() <= MAX_UPPER_HALF
        and lower.max() >= MIN_LARGEST_ID
    )
