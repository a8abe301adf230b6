"""TOML in, TOML out, and the one thing that tomli does not tell: on which line each key stands."""

from __future__ import annotations

import os
import re
import reprlib
from bisect import bisect
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli

from nanogpt_kit.core.errors import Fault, Key, KitError, dotted
from nanogpt_kit.core.paths import expanded
from nanogpt_kit.core.reading import read_bytes
from nanogpt_kit.core.syntax import explained

MOST_BYTES = 5_000_000  # of a file; an experiment has some thousands
MAX_FILES = 100  # that extend each other
MAX_LEVELS = 64  # of tables and lists in each other
MAX_DIGITS = 1000  # of a number

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
PLAIN_VALUE = re.compile(r"[^,\]}#\n]+")  # a number, a boolean or a date: no strings, no brackets


@dataclass(frozen=True)
class Document:
    """One file: its values, and the line (from 1) of every key and array element."""

    path: Path
    values: dict[str, Any]
    lines: dict[Key, int]


class Malformed(Exception):
    """Text that is not TOML, or nested deeper than an experiment can be: why, on which line, at which key."""

    def __init__(self, message: str, line: int, key: Key = ()) -> None:
        super().__init__(message)
        self.message, self.line, self.key = message, line, key


def parse(text: str) -> tuple[dict[str, Any], dict[Key, int]]:
    """The values, and the line of every key and array element. Raises Malformed."""
    try:
        values = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        before = Scanner(error.doc[: error.pos]).scan_broken()
        raise Malformed(*explained(error, before.last, before.earlier)) from None
    except (RecursionError, ValueError) as error:  # more levels than tomli takes; a number of thousands of digits
        scanner = Scanner(text).scan_broken()  # which raises where it comes to it
        raise Malformed(f"too long: {error}", scanner.line, scanner.last) from None
    return values, Scanner(text).scan()


def read(path: Path) -> Document:
    """Reads one file. Raises KitError where it is missing, not UTF-8 or not TOML."""
    try:
        return Document(path, *parse(read_text(path)))
    except Malformed as error:
        raise KitError(Fault(f"not TOML: {error.message}", dotted(error.key), f"{path}:{error.line}")) from None


def read_text(path: Path) -> str:
    """A whole UTF-8 file, a byte order mark dropped. Raises KitError with the reason, or the bad byte's place."""
    try:
        return read_bytes(path, MOST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        bad = f"not UTF-8: byte 0x{error.object[error.start]:02x} at offset {error.start}"
        raise KitError(Fault(f"{bad}; save the file as UTF-8", location=f"{path}:{line}")) from None
    except OSError as error:
        raise KitError(Fault(f"cannot be read: {error.strerror}", location=str(path))) from None
    except ValueError as error:  # a name with NUL in it
        raise KitError(Fault(f"cannot be read: {error}", location=str(path))) from None


def chain(path: Path) -> list[Document]:
    """The files that `path` builds on through `extends`, the base first, `path` last."""
    documents: list[Document] = []
    seen: set[str] = set()
    waiting: Path | None = path
    while waiting is not None:
        if len(documents) == MAX_FILES:
            raise extends_fault(documents[-1], f"is the {MAX_FILES}th in a row; put the values of some into one file")
        try:
            document = read(waiting)
        except KitError as error:
            if not documents or is_there(waiting):
                raise
            raise extends_fault(documents[-1], f"{error} (paths are relative to the file that extends)") from None
        identity = os.path.realpath(waiting)
        if identity in seen:
            circle = " -> ".join(str(document.path) for document in documents)
            raise extends_fault(documents[-1], f"the files extend each other in a circle: {circle} -> {waiting}")
        seen.add(identity)
        documents.append(document)
        base = document.values.pop("extends", None)
        if base is not None and not isinstance(base, str):
            raise extends_fault(document, f"should be the path of one file, got {reprlib.repr(base)}")
        if base is not None:
            base = expanded(base, "extends", f"{waiting}:{document.lines[('extends',)]}")
        waiting = waiting.parent / base if base is not None else None
    return documents[::-1]


def is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # no file can have such a name
        return False


def extends_fault(document: Document, message: str) -> KitError:
    return KitError(Fault(message, "extends", f"{document.path}:{document.lines[('extends',)]}"))


class Scanner:
    """Walks a document that tomli has accepted, so it need not check anything, only keep count."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.newlines = [match.start() for match in re.finditer("\n", text)]
        self.lines: dict[Key, int] = {}
        self.last: Key = ()  # the newest key or element
        self.earlier = 0  # the line on which that was written before, if it was
        self.counts: dict[Key, int] = {}  # arrays of tables: how many elements so far

    def scan(self) -> dict[Key, int]:
        table: Key = ()
        while self.blank() < len(self.text):
            if self.text.startswith("[[", self.at):
                self.at += 2
                table = self.inside(self.key())
                self.note(table)
                self.counts[table] = self.counts.get(table, -1) + 1
                table = (*table, self.counts[table])
                self.note(table)
                self.at = self.text.index("]]", self.at) + 2
            elif self.text[self.at] == "[":
                self.at += 1
                table = self.inside(self.key())
                self.note(table)
                self.at = self.text.index("]", self.at) + 1
            else:
                self.pair(table)
        return self.lines

    def scan_broken(self) -> Scanner:
        """Walks as far as a document is valid. Raises Malformed as `scan` does."""
        with suppress(ValueError, IndexError, AssertionError):
            self.scan()
        return self

    @property
    def line(self) -> int:
        return bisect(self.newlines, self.at) + 1

    def note(self, key: Key) -> None:
        """Records the line of `key`, and of the tables that it names in passing. Raises Malformed."""
        if len(key) > MAX_LEVELS:
            raise Malformed(f"more than {MAX_LEVELS} levels; no option lies so deep", self.line, key[:MAX_LEVELS])
        line, self.earlier = self.line, self.lines.get(key, 0)
        for end in range(1, len(key) + 1):
            self.lines.setdefault(key[:end], line)
        self.last = key

    def inside(self, key: tuple[str, ...]) -> Key:
        """`[callback.options]` after `[[callback]]` means the newest element: put its number in."""
        if len(key) > MAX_LEVELS:  # which `note` refuses
            return key
        full: Key = ()
        for part in key[:-1]:
            full = (*full, part)
            if full in self.counts:
                full = (*full, self.counts[full])
        return (*full, key[-1])

    def blank(self) -> int:
        """Skips white space, newlines and comments; returns where it stopped."""
        while self.at < len(self.text):
            if self.text[self.at] == "#":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            elif self.text[self.at] in " \t\r\n":
                self.at += 1
            else:
                break
        return self.at

    def key(self) -> tuple[str, ...]:
        parts: list[str] = []
        while True:
            self.blank()
            if self.text[self.at] in "\"'":
                parts.append(tomli.loads("key = " + self.string())["key"])
            else:
                match = BARE_KEY.match(self.text, self.at)
                assert match, f"a valid document has a key at offset {self.at}"
                parts.append(match.group())
                self.at = match.end()
            if not self.text.startswith(".", self.blank()):
                return tuple(parts)
            self.at += 1

    def pair(self, table: Key) -> None:
        key = (*table, *self.key())
        self.note(key)
        self.at += 1  # the "="
        self.value(key)

    def value(self, key: Key) -> None:
        self.blank()
        opening = self.text[self.at]
        if opening in "\"'":
            self.string()
        elif opening in "[{":
            self.at += 1
            index = 0
            while self.text[self.blank()] not in "]}":
                if opening == "[":
                    self.note((*key, index))
                    self.value((*key, index))
                    index += 1
                else:
                    self.pair(key)
                if self.text[self.blank()] == ",":
                    self.at += 1
            self.at += 1
        else:
            match = PLAIN_VALUE.match(self.text, self.at)
            assert match, f"a valid document has a value at offset {self.at}"
            if match.end() - self.at > MAX_DIGITS:
                raise Malformed(f"a value of {match.end() - self.at:,} characters without quotes", self.line, key)
            self.at = match.end()

    def string(self) -> str:
        """Skips one string of any of the four forms; returns it as written."""
        start, quote = self.at, self.text[self.at]
        if self.text.startswith(quote * 3, self.at):
            self.at += 3
            while not self.text.startswith(quote * 3, self.at):
                self.at += 2 if quote == '"' and self.text[self.at] == "\\" else 1
            self.at += 3
            while self.text.startswith(quote, self.at):  # up to two more quotes may end the content
                self.at += 1
        elif self.text.startswith(quote * 2, self.at):
            self.at += 2
        else:
            self.at += 1
            while self.text[self.at] != quote:
                self.at += 2 if quote == '"' and self.text[self.at] == "\\" else 1
            self.at += 1
        return self.text[start : self.at]
