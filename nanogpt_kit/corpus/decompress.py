"""The bytes of text files: unpacked, recognised, and as UTF-8 whatever they were written in."""

from __future__ import annotations

import codecs
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.reading import open_regular
from nanogpt_kit.corpus.formats import HEAD_BYTES, by_magic, is_text, marked, unmarked

CODECS = {".gz": "gzip", ".zst": "zstd"}
PIECE_BYTES = 1 << 19  # that are read at once

REMEDIES = {  # for what is not text
    "gzip": "rename it to {name}.gz",
    "zstd": "rename it to {name}.zst",
    "parquet": "rename it to {stem}.parquet",
    "a NumPy array (.npy)": 'dataset.use = "token_files" reads tokens from it',
}


@contextmanager
def unpacked(path: Path, codec: str | None) -> Iterator[io.BufferedReader[Any]]:
    """A file's bytes without the compression that its name says. Raises KitError, also while they are read."""
    try:
        opened = open_regular(path)
    except ValueError as error:  # of a name with NUL in it
        raise fault_at(path, f"cannot be read: {error}") from None
    except OSError as error:
        raise fault_at(path, f"cannot be read: {error.strerror}") from None
    try:
        assert isinstance(opened, io.BufferedReader)
        with io.BufferedReader(opened.detach(), PIECE_BYTES) as file:
            if codec is None:
                yield file
                return
            check_codec(path, codec, head_of(file))
        import pyarrow as pa  # type: ignore[import-untyped]

        # As bytes, since pyarrow takes strings for UTF-8, which not every name is
        with pa.OSFile(os.fsencode(path), "rb") as packed, pa.CompressedInputStream(packed, codec) as stream:
            yield io.BufferedReader(stream, PIECE_BYTES)
    except OSError as error:
        what = f"cannot be read: {error.strerror}" if error.strerror else f"damaged or cut short: {error}"
        raise fault_at(path, what) from None


def head_of(file: io.BufferedReader[Any]) -> bytes:
    """Its next bytes, which stay to be read."""
    return file.peek(HEAD_BYTES)[:HEAD_BYTES]


def check_codec(path: Path, codec: str, head: bytes) -> None:
    """Raises KitError where the content is not what the ending of the name says."""
    found = by_magic(head)
    if found == codec or (codec == "gzip" and head.startswith(b"\x1f\x8b")):  # perhaps damaged behind
        return
    if not head:
        raise fault_at(path, f"is empty, and so not a {codec} file")
    if found or is_text(head):
        what, ending = found or "plain text", {None: "", "gzip": ".gz", "zstd": ".zst"}.get(found)
        new = path.with_suffix(ending).name if ending is not None else "what it is"
        raise fault_at(path, f"is {what}, not {codec} although its name says so; rename it to {new}")
    raise fault_at(path, f"is not {codec} although its name says so, or damaged: it begins with {head[:4].hex(' ')}")


@contextmanager
def as_utf8(path: Path, codec: str | None, errors: str) -> Iterator[IO[bytes]]:
    """The text of a file as UTF-8; UTF-16 and UTF-32 are recoded where a byte order mark says so.

    Raises KitError for another format, and for other encodings that the first bytes show.
    """
    with unpacked(path, codec) as file:
        head = head_of(file)
        check_text(path, head)
        encoding = marked(head)
        yield io.BufferedReader(Recoded(file, encoding, errors, path), PIECE_BYTES) if encoding else file


def check_text(path: Path, head: bytes) -> None:
    found = by_magic(head)
    if found and (found in ("PDF", "RTF") or not is_text(head)):
        remedy = REMEDIES.get(found, "convert it to text").format(name=path.name, stem=path.stem)
        raise fault_at(path, f"is {found}, not text; {remedy}")
    encoding = None if marked(head) else unmarked(head)
    if encoding:
        packed = path.suffix.lower() in CODECS
        source = f"{path.name} > new-{path.name}" if not packed else f"UNPACKED > {path.with_suffix('').name}"
        command = f"iconv -f {encoding} -t UTF-8 {source}"
        raise fault_at(path, f"is {encoding} without a byte order mark; save it as UTF-8, as in: {command}")


class Recoded(io.RawIOBase):
    """The UTF-8 of a stream in another encoding."""

    def __init__(self, file: IO[bytes], encoding: str, errors: str, path: Path) -> None:
        self.file, self.path = file, path
        self.decoder = codecs.getincrementaldecoder(encoding)(errors)
        self.encoding = encoding
        self.offset = 0  # in `file`, of what is decoded next
        self.rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        more = True
        while more and not self.rest:
            raw = self.file.read(PIECE_BYTES)
            more = bool(raw)
            before = len(self.decoder.getstate()[0])  # bytes of a character that the last piece had begun
            try:
                self.rest = self.decoder.decode(raw, final=not more).encode("utf-8")
            except UnicodeDecodeError as error:
                what = f"not {self.encoding.upper()}, which its byte order mark says: {error.reason}"
                raise fault_at(self.path, f"{what} at offset {self.offset - before + error.start}") from None
            self.offset += len(raw)
        size = min(len(buffer), len(self.rest))
        buffer[:size], self.rest = self.rest[:size], self.rest[size:]
        return size


def fault_at(path: Path, message: str, line: int | None = None) -> KitError:
    return KitError(Fault(message, location=f"{path}:{line}" if line else str(path)))
