"""The bytes of text files: decompressed, checked to be text, and recoded to UTF-8."""

from __future__ import annotations

import codecs
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.corpus.file_signatures import HEAD_BYTES, detect_format, encoding_by_bom, guess_utf16_or_32, is_text
from nanogpt_kit.system.reading import open_regular_file

CODECS = {".gz": "gzip", ".zst": "zstd"}
READ_BYTES = 1 << 19  # at once

REMEDIES = {  # for files that are not text
    "gzip": "rename it to {name}.gz",
    "zstd": "rename it to {name}.zst",
    "parquet": "rename it to {stem}.parquet",
    "a NumPy array (.npy)": 'dataset.use = "token_files" reads tokens from it',
}


@contextmanager
def open_decompressed(path: Path, codec: str | None) -> Iterator[io.BufferedReader[Any]]:
    """A file's bytes without the compression that its name declares. Raises KitError, also while they are read."""
    try:
        opened = open_regular_file(path)
    except ValueError as error:  # of a name with NUL in it
        raise file_error(path, f"cannot be read: {error}") from None
    except OSError as error:
        raise file_error(path, f"cannot be read: {error.strerror}") from None
    try:
        assert isinstance(opened, io.BufferedReader)
        with io.BufferedReader(opened.detach(), READ_BYTES) as file:
            if codec is None:
                yield file
                return
            check_codec(path, codec, peek_head(file))
        import pyarrow as pa  # type: ignore[import-untyped]

        # As bytes, since pyarrow takes strings for UTF-8, which not every name is
        with pa.OSFile(os.fsencode(path), "rb") as packed, pa.CompressedInputStream(packed, codec) as stream:
            yield io.BufferedReader(stream, READ_BYTES)
    except OSError as error:
        what = f"cannot be read: {error.strerror}" if error.strerror else f"damaged or cut short: {error}"
        raise file_error(path, what) from None


def peek_head(file: io.BufferedReader[Any]) -> bytes:
    """The next bytes, without consuming them."""
    return file.peek(HEAD_BYTES)[:HEAD_BYTES]


def check_codec(path: Path, codec: str, head: bytes) -> None:
    """Raises KitError where the content is not compressed as the ending of the name declares."""
    content = detect_format(head)
    if content == codec or (codec == "gzip" and head.startswith(b"\x1f\x8b")):  # what follows may be damaged
        return
    if not head:
        raise file_error(path, f"is empty, and therefore not a {codec} file")
    if content or is_text(head):
        ending = {None: "", "gzip": ".gz", "zstd": ".zst"}.get(content)
        remedy = (
            "give it the ending of its format" if ending is None else f"rename it to {path.with_suffix(ending).name}"
        )
        raise file_error(path, f"is {content or 'plain text'}, not {codec} as its name says; {remedy}")
    raise file_error(path, f"is not {codec} as its name says, or is damaged: it begins with {head[:4].hex(' ')}")


@contextmanager
def open_as_utf8(path: Path, codec: str | None, errors: str) -> Iterator[IO[bytes]]:
    """The text of a file as UTF-8; UTF-16 and UTF-32 are recoded where a byte order mark names them.

    Raises KitError where the first bytes show another format, or an encoding without a mark.
    """
    with open_decompressed(path, codec) as file:
        head = peek_head(file)
        check_is_text(path, head)
        encoding = encoding_by_bom(head)
        yield io.BufferedReader(Utf8Stream(file, encoding, errors, path), READ_BYTES) if encoding else file


def check_is_text(path: Path, head: bytes) -> None:
    """Raises KitError where a file's first bytes are not those of text that can be read."""
    content = detect_format(head)
    if content and (content in ("PDF", "RTF") or not is_text(head)):
        remedy = REMEDIES.get(content, "convert it to text").format(name=path.name, stem=path.stem)
        raise file_error(path, f"is {content}, not text; {remedy}")
    encoding = None if encoding_by_bom(head) else guess_utf16_or_32(head)
    if encoding:
        packed = path.suffix.lower() in CODECS
        source = f"{path.name} > new-{path.name}" if not packed else f"UNPACKED > {path.with_suffix('').name}"
        command = f"iconv -f {encoding} -t UTF-8 {source}"
        raise file_error(path, f"is {encoding} without a byte order mark; save it as UTF-8, as in: {command}")


class Utf8Stream(io.RawIOBase):
    """A stream in another encoding, recoded to UTF-8."""

    def __init__(self, file: IO[bytes], encoding: str, errors: str, path: Path) -> None:
        self.file, self.path = file, path
        self.decoder = codecs.getincrementaldecoder(encoding)(errors)
        self.encoding = encoding
        self.offset = 0  # in `file`, of the next bytes to decode
        self.rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        more = True
        while more and not self.rest:
            raw = self.file.read(READ_BYTES)
            more = bool(raw)
            before = len(self.decoder.getstate()[0])  # bytes of a character that started in the last part
            try:
                self.rest = self.decoder.decode(raw, final=not more).encode("utf-8")
            except UnicodeDecodeError as error:
                what = f"not {self.encoding.upper()}, which its byte order mark names: {error.reason}"
                raise file_error(self.path, f"{what} at offset {self.offset - before + error.start}") from None
            self.offset += len(raw)
        size = min(len(buffer), len(self.rest))
        buffer[:size], self.rest = self.rest[:size], self.rest[size:]
        return size


def file_error(path: Path, message: str, line: int | None = None) -> KitError:
    return KitError(Fault(message, location=f"{path}:{line}" if line else str(path)))
