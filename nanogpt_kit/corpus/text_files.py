"""Text in files, streamed: .txt, .jsonl, .csv, .tsv and .parquet, each of them also as .gz or .zst.

Only one record (a line, a row) is in memory, never a whole file: a long .txt is read in parts.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from bisect import bisect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from nanogpt_kit.core.errors import KitError, did_you_mean
from nanogpt_kit.core.kinds.text import Document
from nanogpt_kit.corpus.decompress import CODECS, READ_BYTES, file_error, open_as_utf8
from nanogpt_kit.corpus.file_signatures import why_not_text
from nanogpt_kit.corpus.hash_split import LongDocument
from nanogpt_kit.corpus.json_faults import ARRAY_FAULT, explain_json_fault
from nanogpt_kit.corpus.parquet import UTF8_REMEDY, check_parquet, column_bytes, parquet_file, parquet_texts

FORMATS = {  # file name ending -> format
    ".txt": ".txt",
    ".jsonl": ".jsonl",
    ".ndjson": ".jsonl",
    ".csv": ".csv",
    ".tsv": ".tsv",
    ".parquet": ".parquet",
}
ENDINGS = tuple(form + codec for form in FORMATS for codec in ("", *CODECS))

LONG_BYTES = 8 << 20  # a longer .txt is read in parts
JSON_TYPES = {int: "a number", float: "a number", bool: "a boolean", list: "a list", dict: "an object"}


@dataclass(frozen=True)
class TextFile:
    """One file. Its ending names the format; a file with an unknown ending is read as .txt."""

    path: Path
    field: str  # key or column
    errors: Literal["strict", "replace"] = "strict"  # what to do with invalid UTF-8
    is_plain: bool = False  # its content is known to be plain text, whatever its name says

    @property
    def codec(self) -> str | None:
        return CODECS.get(self.path.suffix.lower())

    @property
    def stem(self) -> str:
        """The name without its endings, limited to the characters of metric names."""
        inner = self.path.with_suffix("") if self.codec else self.path
        return re.sub(r"[^\w.-]+", "_", inner.stem)

    @property
    def format(self) -> str:
        inner = self.path.with_suffix("") if self.codec else self.path
        return FORMATS.get(inner.suffix.lower(), ".txt")

    def documents(self) -> Iterator[Document]:
        """Raises KitError that names the file, the line or row, and what is wrong there."""
        if not self.is_plain and (reason := why_not_text(self.path)):
            raise self._fault(reason)
        readers = {".txt": self._txt, ".jsonl": self._jsonl, ".parquet": self._parquet}
        return readers.get(self.format, self._csv)()

    def check(self) -> None:
        """Raises KitError where the first bytes are not those of the format."""
        if self.format == ".parquet":
            check_parquet(self.path, self.codec)
            return
        with self.opened():
            pass

    def text_bytes(self) -> int | None:
        """Approximate size of the text; None where it is not known without reading the file."""
        if self.codec:
            return None
        if self.format != ".parquet":
            return self.path.stat().st_size
        with parquet_file(self.path, self.codec) as file:
            return column_bytes(file, self.field)

    # --- formats ---

    def _txt(self) -> Iterator[Document]:
        with self.opened() as file:
            raw = file.read(LONG_BYTES + 1)
        if len(raw) > LONG_BYTES:
            yield LongText(self)
        else:
            yield from self._decoded(raw, 1, 0)

    def records(self) -> Iterator[tuple[int, str, Any]]:
        """(line number, line, JSON value) of the lines of a .jsonl that are not blank. Raises KitError."""
        first = True
        for line_number, line in self._lines():
            if not (stripped := line.strip()):
                continue
            try:
                record = json.loads(stripped)
            except (ValueError, RecursionError):
                raise self._fault(explain_json_fault(stripped, first), line_number) from None
            if first and isinstance(record, list) and all(isinstance(item, dict) for item in record):
                raise self._fault(f"not JSON Lines: {ARRAY_FAULT}", line_number)
            first = False
            yield line_number, line, record

    def _jsonl(self) -> Iterator[str]:
        for line_number, line, record in self.records():
            if not isinstance(record, dict) or self.field not in record:
                has = f"it has {', '.join(list(record)[:20])}" if isinstance(record, dict) else "it is not an object"
                raise self._fault(f"no text under {self.field!r} ({has}); dataset.field names the key", line_number)
            text = record[self.field]
            if text != text:
                raise self._fault(f'NaN under {self.field!r}; for a missing text, write null or ""', line_number)
            if not isinstance(text, str | None):
                raise self._fault(f"no text under {self.field!r}, but {JSON_TYPES[type(text)]}", line_number)
            yield self._without_half_pairs(text, line_number) if text and "\\u" in line else text or ""

    def _without_half_pairs(self, text: str, line: int) -> str:
        """The text, checked or repaired: JSON may contain half a surrogate pair, UTF-8 may not."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            if self.errors == "strict":
                half = f"{text[error.start]!r} at character {error.start} of {self.field!r}: {error.reason}"
                raise self._fault(f"not Unicode text: {half}", line) from None
            return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return text

    def _csv(self) -> Iterator[str]:
        csv.field_size_limit(2**31 - 1)  # global to the module; the largest that every platform accepts
        delimiter = "\t" if self.format == ".tsv" else ","
        rows = csv.reader((line for _, line in self._lines()), strict=True, delimiter=delimiter)
        try:
            header = next(rows, None)
            if header is None:
                return
            if self.field not in header:
                candidates = "\t;|," if len(header) == 1 else ""
                other = next((mark for mark in candidates if self.field in header[0].split(mark)), None)
                if other:
                    remedy = {"\t": "name it .tsv", ",": "name it .csv"}.get(
                        other, "save it with commas, or as .tsv with tabs"
                    )
                    raise self._fault(f"its columns are separated by {other!r}; {remedy}", 1)
                raise self._fault(f"dataset.field: no column {self.field!r}{did_you_mean(self.field, header)}", 1)
            at = header.index(self.field)
            for row in rows:
                if row and len(row) <= at:
                    raise self._fault(f"{len(row)} fields; {self.field!r} is field {at + 1}", rows.line_num)
                yield row[at] if row else ""
        except csv.Error as error:
            quoting = "; a field that begins with a double quote ends with one, and those in it are doubled"
            remedy = quoting if '"' in str(error) or "end of data" in str(error) else ""
            raise self._fault(f"not {self.format[1:].upper()}: {error}{remedy}", rows.line_num) from None

    def _parquet(self) -> Iterator[str]:
        with parquet_file(self.path, self.codec) as file:
            yield from parquet_texts(file, self.field, str(self.path), self.errors)

    # --- bytes ---

    @contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        """The bytes, decompressed and as UTF-8. Raises KitError for other content, also while they are read."""
        with open_as_utf8(self.path, self.codec, self.errors) as file:
            yield file

    def _lines(self) -> Iterator[tuple[int, str]]:
        """(line number from 1, line with its end)."""
        offset = 0
        with self.opened() as file:
            for line_number, raw in enumerate(file, start=1):
                for line in self._decoded(raw, line_number, offset):
                    yield line_number, line
                offset += len(raw)

    def _decoded(self, raw: bytes, line: int, offset: int) -> Iterator[str]:
        begin = len(codecs.BOM_UTF8) if offset == 0 and raw.startswith(codecs.BOM_UTF8) else 0
        if b"\0" in raw:
            raw = self.without_nul(raw, line, offset)
        try:
            text = raw[begin:].decode("utf-8", self.errors)
        except UnicodeDecodeError as error:
            raise self.invalid_byte_error(error.object, error.start, line, offset + begin) from None
        if text:
            yield text

    def without_nul(self, raw: bytes, line: int, offset: int) -> bytes:
        """The text without its NULs: they are valid UTF-8, but a file with them is usually of another format."""
        if self.errors == "strict":
            raise self.invalid_byte_error(raw, raw.index(0), line, offset)
        return raw.replace(b"\0", "\ufffd".encode())

    def invalid_byte_error(self, raw: bytes, at: int, line: int, offset: int) -> KitError:
        """`line` and `offset` are those of the beginning of `raw`; `at` is an index in it."""
        where = f"at offset {offset + at}{' of the decompressed text' if self.codec else ''}"
        line += raw[:at].count(b"\n")
        if raw[at]:
            return self._fault(f"not UTF-8: byte 0x{raw[at]:02x} {where}; {UTF8_REMEDY}", line)
        return self._fault(f"not text: a NUL byte {where}; another format? Otherwise {UTF8_REMEDY}", line)

    def _fault(self, message: str, line: int | None = None) -> KitError:
        return file_error(self.path, message, line)


class LongText(LongDocument):
    """A .txt file read in parts; line ends stay as they are in the file."""

    def __init__(self, file: TextFile) -> None:
        self.file = file
        self.marks = [(0, 0)]  # (characters, bytes) before each part

    def characters(self) -> int:
        parts = [(mark, len(text)) for mark, text in self._parts(0)]
        self.marks = [mark for mark, _ in parts]
        return sum(length for _, length in parts)

    def since(self, first: int) -> Iterator[str]:
        for (begin, _), text in self._parts(bisect(self.marks, first, key=lambda mark: mark[0]) - 1):
            if text[max(0, first - begin) :]:
                yield text[max(0, first - begin) :]

    def _parts(self, start: int) -> Iterator[tuple[tuple[int, int], str]]:
        """(mark, text) of each part, from mark `start` on."""
        characters, offset = self.marks[start]
        decoder = codecs.getincrementaldecoder("utf-8")(self.file.errors)
        with self.file.opened() as file:
            skip_bytes(file, offset)
            more = True
            while more:
                raw = file.read(READ_BYTES)
                more = bool(raw)
                if offset == 0 and raw.startswith(codecs.BOM_UTF8):
                    raw, offset = raw[len(codecs.BOM_UTF8) :], len(codecs.BOM_UTF8)
                before = len(decoder.getstate()[0])  # of a character that started in the last part
                size = before + len(raw)
                if b"\0" in raw:
                    lines = 1 if self.file.errors == "replace" else self._line_at(offset + before)
                    raw = self.file.without_nul(raw, lines, offset + before)
                try:
                    text = decoder.decode(raw, final=not more)
                except UnicodeDecodeError as error:
                    raise self.file.invalid_byte_error(
                        error.object, error.start, self._line_at(offset), offset
                    ) from None
                yield (characters, offset), text
                characters += len(text)
                offset += size - len(decoder.getstate()[0])

    def _line_at(self, offset: int) -> int:
        """From 1. Counted only for an error message: it takes as long as decoding."""
        lines = 1
        with self.file.opened() as file:
            while offset and (raw := file.read(min(offset, READ_BYTES))):
                lines += raw.count(b"\n")
                offset -= len(raw)
        return lines


def skip_bytes(file: IO[bytes], size: int) -> None:
    if file.seekable():
        file.seek(size)
        return
    while size and (skipped := len(file.read(min(size, READ_BYTES)))):
        size -= skipped
