"""Text in files, streamed: .txt, .jsonl, .csv and .parquet, each perhaps with .gz or .zst behind it.

A record (a line, a row) is held whole, a file never is: a long .txt comes in pieces.
"""

from __future__ import annotations

import codecs
import csv
import glob
import io
import json
import re
import shutil
import tempfile
from bisect import bisect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

from nanogpt_kit.core.errors import Fault, KitError, nearest
from nanogpt_kit.core.kinds.divided import LongDocument
from nanogpt_kit.core.kinds.text import Document
from nanogpt_kit.core.parquet import REMEDY, column_bytes, parquet_texts

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]

FORMATS = (".txt", ".jsonl", ".csv", ".parquet")
CODECS = {".gz": "gzip", ".zst": "zstd"}
ENDINGS = tuple(form + codec for form in FORMATS for codec in ("", *CODECS))
PACKED = (".bz2", ".xz", ".zip", ".tar", ".tgz", ".7z", ".pdf", ".docx", ".epub", ".bin")

PIECE_BYTES = 1 << 19  # of a long document
LONG_BYTES = 8 << 20  # of a .txt that is read in pieces
JSON_TYPES = {int: "a number", float: "a number", bool: "a boolean", list: "a list", dict: "an object"}


def matching(source: str, endings: tuple[str, ...]) -> list[Path]:
    """The files that a path, a glob or a folder names, sorted; in folders those of some `endings`, no hidden ones."""
    named = Path(source)
    if named.is_file():
        return [named]
    if not named.is_dir():
        return sorted(Path(match) for match in glob.glob(source, recursive=True) if Path(match).is_file())
    found = (path for path in named.rglob("*") if path.name.lower().endswith(endings) and path.is_file())
    return sorted(path for path in found if not any(part[0] == "." for part in path.relative_to(named).parts))


def text_files(
    sources: str | tuple[str, ...], field: str, errors: Literal["strict", "replace"] = "strict"
) -> list[TextFile]:
    """In the order of the sources, each file once. Raises KitError for a source without any."""
    found: list[Path] = []
    for source in (sources,) if isinstance(sources, str) else sources:
        paths = matching(source, ENDINGS)
        if not paths and Path(source).is_dir():
            allowed = f"{', '.join(FORMATS)} files (perhaps with {' or '.join(CODECS)} behind)"
            raise KitError(f"dataset.source: {source!r} is a folder without {allowed}")
        if not paths:
            raise KitError(f"dataset.source: {source!r} is no file, folder or glob match (from {Path.cwd()})")
        found += paths
    for path in found:
        if path.name.lower().endswith((*PACKED, ".json", ".arrow")):
            remedy = "unpack or convert it" if path.name.lower().endswith(PACKED) else 'dataset.use = "huggingface" can'
            raise KitError(f"dataset.source: {path} cannot be read as text; {remedy}")
    return [TextFile(path, field, errors) for path in dict.fromkeys(found)]


@dataclass(frozen=True)
class TextFile:
    """One file; its ending says what it is, and one that is unknown is text."""

    path: Path
    field: str  # key or column
    errors: Literal["strict", "replace"] = "strict"  # what becomes of bytes that are no UTF-8

    @property
    def codec(self) -> str | None:
        return CODECS.get(self.path.suffix.lower())

    @property
    def stem(self) -> str:
        """The name without its endings, of characters that names of metrics have."""
        inner = self.path.with_suffix("") if self.codec else self.path
        return re.sub(r"[^\w.-]+", "_", inner.stem)

    @property
    def form(self) -> str:
        inner = self.path.with_suffix("") if self.codec else self.path
        return inner.suffix.lower() if inner.suffix.lower() in FORMATS else ".txt"

    def documents(self) -> Iterator[Document]:
        """Raises KitError with file, line or row, and what is wrong there."""
        return {".txt": self._txt, ".jsonl": self._jsonl, ".csv": self._csv, ".parquet": self._parquet}[self.form]()

    def text_bytes(self) -> int | None:
        """How much there is to read, nearly; None where that cannot be told at once."""
        if self.codec:
            return None
        if self.form != ".parquet":
            return self.path.stat().st_size
        with self._parquet_file() as file:
            return column_bytes(file, self.field)

    # --- formats ---

    def _txt(self) -> Iterator[Document]:
        with self.opened() as file:
            raw = file.read(LONG_BYTES + 1)
        if len(raw) > LONG_BYTES:
            yield LongText(self)
        else:
            yield from self._line(raw, 1, 0)

    def _jsonl(self) -> Iterator[str]:
        for number, line in self._lines():
            if not (stripped := line.strip()):
                continue
            try:
                record = json.loads(stripped)
            except (ValueError, RecursionError) as error:
                raise self._fault(f"not JSON: {error}", number) from None
            if not isinstance(record, dict) or self.field not in record:
                has = f"it has {', '.join(list(record)[:20])}" if isinstance(record, dict) else "it is no object"
                raise self._fault(f"no text under {self.field!r} ({has}); dataset.field names the key", number)
            text = record[self.field]
            if not isinstance(text, str | None):
                raise self._fault(f"no text under {self.field!r}, but {JSON_TYPES[type(text)]}", number)
            yield self._whole(text, number) if text and "\\u" in line else text or ""

    def _whole(self, text: str, line: int) -> str:
        """JSON may hold half a surrogate pair, UTF-8 may not."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            if self.errors == "strict":
                half = f"{text[error.start]!r} at character {error.start} of {self.field!r}: {error.reason}"
                raise self._fault(f"no Unicode text: {half}", line) from None
            return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return text

    def _csv(self) -> Iterator[str]:
        csv.field_size_limit(2**31 - 1)  # of the module, for all of its readers; the most that every platform takes
        rows = csv.reader((line for _, line in self._lines()), strict=True)
        try:
            header = next(rows, None)
            if header is None:
                return
            if self.field not in header:
                raise self._fault(f"dataset.field: no column {self.field!r}{nearest(self.field, header)}", 1)
            at = header.index(self.field)
            for row in rows:
                if row and len(row) <= at:
                    raise self._fault(f"{len(row)} fields; {self.field!r} is number {at + 1}", rows.line_num)
                yield row[at] if row else ""
        except csv.Error as error:
            raise self._fault(f"not CSV: {error}", rows.line_num) from None

    def _parquet(self) -> Iterator[str]:
        with self._parquet_file() as file:
            yield from parquet_texts(file, self.field, str(self.path), self.errors)

    # --- bytes ---

    @contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        """The bytes, decompressed. Raises KitError, also while they are read."""
        try:
            if self.codec is None:
                with self.path.open("rb", buffering=PIECE_BYTES) as file:
                    yield file
                return
            import pyarrow as pa  # type: ignore[import-untyped]

            if self.path.stat().st_size == 0:
                raise self._fault(f"is empty, and so no {self.codec} file")
            with pa.OSFile(str(self.path), "rb") as packed, pa.CompressedInputStream(packed, self.codec) as stream:
                yield io.BufferedReader(stream, PIECE_BYTES)
        except OSError as error:
            what = f"cannot be read: {error.strerror}" if error.strerror else f"damaged or cut short: {error}"
            raise self._fault(what) from None

    @contextmanager
    def _parquet_file(self) -> Iterator[ParquetFile]:
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile

        with self._seekable() as source:
            try:  # a small buffer and nothing ahead: a row group may be as large as the file
                with ParquetFile(source, buffer_size=PIECE_BYTES, pre_buffer=False) as file:
                    yield file
            except (pa.ArrowException, OSError) as error:
                raise self._fault(f"no parquet file, or damaged: {str(error).splitlines()[0]}") from None

    @contextmanager
    def _seekable(self) -> Iterator[Path | IO[bytes]]:
        """Parquet is read from its end, so what is compressed once more has to be unpacked."""
        if self.codec is None:
            yield self.path
            return
        with self.opened() as packed, tempfile.TemporaryFile() as unpacked:
            shutil.copyfileobj(packed, unpacked, PIECE_BYTES)
            yield unpacked

    def _lines(self) -> Iterator[tuple[int, str]]:
        """Numbers from 1, and lines with their ends."""
        offset = 0
        with self.opened() as file:
            for number, raw in enumerate(file, start=1):
                for line in self._line(raw, number, offset):
                    yield number, line
                offset += len(raw)

    def _line(self, raw: bytes, line: int, offset: int) -> Iterator[str]:
        begin = len(codecs.BOM_UTF8) if offset == 0 and raw.startswith(codecs.BOM_UTF8) else 0
        try:
            text = raw[begin:].decode("utf-8", self.errors)
        except UnicodeDecodeError as error:
            raise self.not_utf8(error, line, offset + begin) from None
        if text:
            yield text

    def not_utf8(self, error: UnicodeDecodeError, line: int, offset: int) -> KitError:
        """`line` and `offset`: where the bytes that were to be decoded begin."""
        line += error.object[: error.start].count(b"\n")
        where = f"at offset {offset + error.start}{' of the decompressed text' if self.codec else ''}"
        return self._fault(f"not UTF-8: byte 0x{error.object[error.start]:02x} {where}; {REMEDY}", line)

    def _fault(self, message: str, line: int | None = None) -> KitError:
        return KitError(Fault(message, place=f"{self.path}:{line}" if line else str(self.path)))


class LongText(LongDocument):
    """A .txt file in pieces, its line ends as they are."""

    def __init__(self, file: TextFile) -> None:
        self.file = file
        self.marks = [(0, 0)]  # characters and bytes before a piece

    def characters(self) -> int:
        found = [(mark, len(text)) for mark, text in self._pieces(0)]
        self.marks = [mark for mark, _ in found]
        return sum(length for _, length in found)

    def since(self, first: int) -> Iterator[str]:
        for (begin, _), text in self._pieces(bisect(self.marks, first, key=lambda mark: mark[0]) - 1):
            if text[max(0, first - begin) :]:
                yield text[max(0, first - begin) :]

    def _pieces(self, start: int) -> Iterator[tuple[tuple[int, int], str]]:
        """Each piece with its mark, from the mark of number `start` on."""
        characters, offset = self.marks[start]
        decoder = codecs.getincrementaldecoder("utf-8")(self.file.errors)
        with self.file.opened() as file:
            skip(file, offset)
            more = True
            while more:
                raw = file.read(PIECE_BYTES)
                more = bool(raw)
                if offset == 0 and raw.startswith(codecs.BOM_UTF8):
                    raw, offset = raw[len(codecs.BOM_UTF8) :], len(codecs.BOM_UTF8)
                before = len(decoder.getstate()[0])  # of a character that the last piece had begun
                try:
                    text = decoder.decode(raw, final=not more)
                except UnicodeDecodeError as error:
                    raise self.file.not_utf8(error, self._line_at(offset), offset) from None
                yield (characters, offset), text
                characters += len(text)
                offset += before + len(raw) - len(decoder.getstate()[0])

    def _line_at(self, offset: int) -> int:
        """From 1. Counted where something is wrong only: it takes as long as decoding."""
        lines = 1
        with self.file.opened() as file:
            while offset and (raw := file.read(min(offset, PIECE_BYTES))):
                lines += raw.count(b"\n")
                offset -= len(raw)
        return lines


def skip(file: IO[bytes], size: int) -> None:
    if file.seekable():
        file.seek(size)
        return
    while size and (skipped := len(file.read(min(size, PIECE_BYTES)))):
        size -= skipped
