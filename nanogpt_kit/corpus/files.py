"""Text in files, streamed: .txt, .jsonl, .csv, .tsv and .parquet, each perhaps with .gz or .zst behind it.

A record (a line, a row) is held whole, a file never is: a long .txt comes in pieces.
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
from nanogpt_kit.corpus.decompress import CODECS, PIECE_BYTES, as_utf8, fault_at
from nanogpt_kit.corpus.formats import not_text
from nanogpt_kit.corpus.hash_split import LongDocument
from nanogpt_kit.corpus.json_lines import ARRAY, fault_in
from nanogpt_kit.corpus.parquet import REMEDY, check_parquet, column_bytes, parquet_file, parquet_texts

FORMATS = {  # endings, and what files of each are read as
    ".txt": ".txt",
    ".jsonl": ".jsonl",
    ".ndjson": ".jsonl",
    ".csv": ".csv",
    ".tsv": ".tsv",
    ".parquet": ".parquet",
}
ENDINGS = tuple(form + codec for form in FORMATS for codec in ("", *CODECS))

LONG_BYTES = 8 << 20  # of a .txt that is read in pieces
JSON_TYPES = {int: "a number", float: "a number", bool: "a boolean", list: "a list", dict: "an object"}


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
        return FORMATS.get(inner.suffix.lower(), ".txt")

    def documents(self) -> Iterator[Document]:
        """Raises KitError with file, line or row, and what is wrong there."""
        if reason := not_text(self.path):
            raise self._fault(reason)
        readers = {".txt": self._txt, ".jsonl": self._jsonl, ".parquet": self._parquet}
        return readers.get(self.form, self._csv)()

    def check(self) -> None:
        """Raises KitError where its first bytes are not those of its format."""
        if self.form == ".parquet":
            check_parquet(self.path, self.codec)
            return
        with self.opened():
            pass

    def text_bytes(self) -> int | None:
        """How much there is to read, nearly; None where that cannot be told at once."""
        if self.codec:
            return None
        if self.form != ".parquet":
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
            yield from self._line(raw, 1, 0)

    def records(self) -> Iterator[tuple[int, str, Any]]:
        """The lines of a .jsonl that are not blank: their numbers, the lines and their values. Raises KitError."""
        first = True
        for number, line in self._lines():
            if not (stripped := line.strip()):
                continue
            try:
                record = json.loads(stripped)
            except (ValueError, RecursionError):
                raise self._fault(fault_in(stripped, first), number) from None
            if first and isinstance(record, list) and all(isinstance(one, dict) for one in record):
                raise self._fault(f"not JSON Lines: {ARRAY}", number)
            first = False
            yield number, line, record

    def _jsonl(self) -> Iterator[str]:
        for number, line, record in self.records():
            if not isinstance(record, dict) or self.field not in record:
                has = f"it has {', '.join(list(record)[:20])}" if isinstance(record, dict) else "it is no object"
                raise self._fault(f"no text under {self.field!r} ({has}); dataset.field names the key", number)
            text = record[self.field]
            if text != text:
                raise self._fault(f'NaN under {self.field!r}; for a missing text, write null or ""', number)
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
        comma = "\t" if self.form == ".tsv" else ","
        rows = csv.reader((line for _, line in self._lines()), strict=True, delimiter=comma)
        try:
            header = next(rows, None)
            if header is None:
                return
            if self.field not in header:
                other = next((one for one in "\t;|," if len(header) == 1 and self.field in header[0].split(one)), None)
                if other:
                    remedy = {"\t": "name it .tsv", ",": "name it .csv"}.get(
                        other, "save it with commas, or as .tsv with tabs"
                    )
                    raise self._fault(f"its columns are separated by {other!r}; {remedy}", 1)
                raise self._fault(f"dataset.field: no column {self.field!r}{did_you_mean(self.field, header)}", 1)
            at = header.index(self.field)
            for row in rows:
                if row and len(row) <= at:
                    raise self._fault(f"{len(row)} fields; {self.field!r} is number {at + 1}", rows.line_num)
                yield row[at] if row else ""
        except csv.Error as error:
            quoting = "; a field that begins with a double quote ends with one, and those in it are doubled"
            remedy = quoting if '"' in str(error) or "end of data" in str(error) else ""
            raise self._fault(f"not {self.form[1:].upper()}: {error}{remedy}", rows.line_num) from None

    def _parquet(self) -> Iterator[str]:
        with parquet_file(self.path, self.codec) as file:
            yield from parquet_texts(file, self.field, str(self.path), self.errors)

    # --- bytes ---

    @contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        """The bytes, decompressed and as UTF-8. Raises KitError, also while they are read, for what is not text."""
        with as_utf8(self.path, self.codec, self.errors) as file:
            yield file

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
        if b"\0" in raw:
            raw = self.without_nul(raw, line, offset)
        try:
            text = raw[begin:].decode("utf-8", self.errors)
        except UnicodeDecodeError as error:
            raise self.bad_byte(error.object, error.start, line, offset + begin) from None
        if text:
            yield text

    def without_nul(self, raw: bytes, line: int, offset: int) -> bytes:
        """NULs are valid UTF-8, but files that hold some are of another format."""
        if self.errors == "strict":
            raise self.bad_byte(raw, raw.index(0), line, offset)
        return raw.replace(b"\0", "\ufffd".encode())

    def bad_byte(self, raw: bytes, at: int, line: int, offset: int) -> KitError:
        """`line` and `offset`: where `raw` begins; `at`: the place in it."""
        where = f"at offset {offset + at}{' of the decompressed text' if self.codec else ''}"
        line += raw[:at].count(b"\n")
        if raw[at]:
            return self._fault(f"not UTF-8: byte 0x{raw[at]:02x} {where}; {REMEDY}", line)
        return self._fault(f"not text: a NUL byte {where}; is it of another format? Otherwise, {REMEDY}", line)

    def _fault(self, message: str, line: int | None = None) -> KitError:
        return fault_at(self.path, message, line)


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
                size = before + len(raw)
                if b"\0" in raw:
                    lines = 1 if self.file.errors == "replace" else self._line_at(offset + before)
                    raw = self.file.without_nul(raw, lines, offset + before)
                try:
                    text = decoder.decode(raw, final=not more)
                except UnicodeDecodeError as error:
                    raise self.file.bad_byte(error.object, error.start, self._line_at(offset), offset) from None
                yield (characters, offset), text
                characters += len(text)
                offset += size - len(decoder.getstate()[0])

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
