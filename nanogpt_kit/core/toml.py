"""TOML in, TOML out, and the one thing that tomli does not tell: on which line each key stands."""

from __future__ import annotations

import re
from bisect import bisect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli

from nanogpt_kit.core.errors import Fault, Key, KitError
from nanogpt_kit.core.paths import expanded
from nanogpt_kit.core.reading import read_bytes

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
PLAIN_VALUE = re.compile(r"[^,\]}#\n]+")  # a number, a boolean or a date: no strings, no brackets


@dataclass(frozen=True)
class Document:
    """One file: its values, and the line (from 1) of every key and array element."""

    path: Path
    values: dict[str, Any]
    lines: dict[Key, int]


def read(path: Path) -> Document:
    """Reads one file. Raises KitError where it is missing, not UTF-8 or not TOML."""
    text = read_text(path)
    try:
        values = tomli.loads(text)
        return Document(path, values, locate(text))
    except tomli.TOMLDecodeError as error:
        raise KitError(Fault(f"not TOML: {error.msg}", place=f"{path}:{error.lineno}")) from None
    except (RecursionError, ValueError) as error:  # a number of thousands of digits
        raise KitError(Fault(f"too deeply nested or too long: {error}", place=str(path))) from None


def read_text(path: Path) -> str:
    """A whole UTF-8 file, a byte order mark dropped. Raises KitError with the reason, or the bad byte's place."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        bad = f"not UTF-8: byte 0x{error.object[error.start]:02x} at offset {error.start}"
        raise KitError(Fault(f"{bad}; save the file as UTF-8", place=f"{path}:{line}")) from None
    except OSError as error:
        raise KitError(Fault(f"cannot be read: {error.strerror}", place=str(path))) from None


def chain(path: Path) -> list[Document]:
    """The files that `path` builds on through `extends`, the base first, `path` last."""
    documents: list[Document] = []
    waiting: Path | None = path
    while waiting is not None:
        seen = [document.path.resolve() for document in documents]
        if waiting.resolve() in seen:
            circle = " -> ".join(str(document.path) for document in documents)
            place = f"{documents[-1].path}:{documents[-1].lines[('extends',)]}"
            raise KitError(Fault(f"the files extend each other in a circle: {circle} -> {waiting}", "extends", place))
        try:
            document = read(waiting)
        except KitError as error:
            if not documents or waiting.exists():
                raise
            place = f"{documents[-1].path}:{documents[-1].lines[('extends',)]}"
            raise KitError(Fault(f"{error} (paths are relative to the file that extends)", "extends", place)) from None
        documents.append(document)
        base = document.values.pop("extends", None)
        if base is not None and not isinstance(base, str):
            place = f"{waiting}:{document.lines[('extends',)]}"
            raise KitError(Fault(f"should be the path of one file, got {base!r}", "extends", place))
        if base is not None:
            base = expanded(base, "extends", f"{waiting}:{document.lines[('extends',)]}")
        waiting = waiting.parent / base if base is not None else None
    return documents[::-1]


def locate(text: str) -> dict[Key, int]:
    """The line of every key, table and array element of a valid document."""
    return Scanner(text).scan()


class Scanner:
    """Walks a document that tomli has accepted, so it need not check anything, only keep count."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.newlines = [match.start() for match in re.finditer("\n", text)]
        self.lines: dict[Key, int] = {}
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

    def note(self, key: Key) -> None:
        """Records the line of `key`, and of the tables that it names in passing."""
        for end in range(1, len(key) + 1):
            self.lines.setdefault(key[:end], bisect(self.newlines, self.at) + 1)

    def inside(self, key: tuple[str, ...]) -> Key:
        """`[callback.options]` after `[[callback]]` means the newest element: put its number in."""
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
            self.blank()
            if self.text[self.at] != ".":
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
