"""Whether a file of unknown format is plain text, by its content: its name is not trusted."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.corpus.decompress import open_decompressed, peek_head
from nanogpt_kit.corpus.file_signatures import CONTROL, decode_head, detect_format, encoding_by_bom, guess_utf16_or_32

Content = Literal["text", "binary", "not UTF-8", "unreadable"]

READ_WHOLE_BYTES = 8 << 20  # smaller files are decoded completely; of larger ones only the beginning
MAX_CONTROL_FRACTION = 0.1  # of the first bytes: a source file may contain a few control characters
ALWAYS_BINARY = ("PDF", "RTF")  # formats that consist of characters


def content_of(path: Path, codec: str | None, errors: str = "strict") -> Content:
    """What a file contains; `codec` is its compression. With errors = "replace", text need not be valid UTF-8."""
    try:
        status = path.stat()
    except OSError:
        return "unreadable"
    return detect_content(str(path.absolute()), codec, errors, status.st_size, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=200_000)  # a start of a run asks several times
def detect_content(path: str, codec: str | None, errors: str, *state: int) -> Content:
    """As `content_of`; `state` are values that differ once the file has changed."""
    try:
        with open_decompressed(Path(path), codec) as file:
            head = peek_head(file)
            kind = content_of_head(head, errors)
            if kind != "text" or errors != "strict" or encoding_by_bom(head):
                return kind
            raw = file.read(READ_WHOLE_BYTES + 1)
    except KitError:
        return "unreadable"
    if len(raw) > READ_WHOLE_BYTES:
        return "text"
    if b"\0" in raw:
        return "binary"
    return "text" if is_utf8(raw) else "not UTF-8"


def content_of_head(head: bytes, errors: str) -> Content:
    """As `content_of`, for the first bytes of a file."""
    characters = decode_head(head, "utf-8")
    known = detect_format(head)
    if known in ALWAYS_BINARY or (known and characters is None):
        return "binary"
    if encoding_by_bom(head):
        return "text"
    if guess_utf16_or_32(head):
        return "not UTF-8"
    controls = len(CONTROL.findall(head.decode("latin-1")))
    if b"\0" in head or controls > MAX_CONTROL_FRACTION * len(head):
        return "binary"
    if characters is not None or (errors == "replace" and not controls):
        return "text"
    return "binary" if controls else "not UTF-8"


def is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
