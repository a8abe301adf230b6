"""Parsing TOML with the line of each key, which tomli does not report, and with remedies for what is not TOML."""

from __future__ import annotations

import re
from bisect import bisect
from contextlib import suppress
from typing import Any

import tomli

from nanogpt_kit.core.errors import Key
from nanogpt_kit.core.syntax import explain_syntax_error

MAX_LEVELS = 64  # of nested tables and lists
MAX_DIGITS = 1000  # of a number

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
PLAIN_VALUE = re.compile(r"[^,\]}#\n]+")  # a number, a boolean or a date: no strings, no brackets


class MalformedToml(Exception):
    """Text that is not TOML, or too deeply nested; with the reason, the line and the key."""

    def __init__(self, message: str, line: int, key: Key = ()) -> None:
        super().__init__(message)
        self.message, self.line, self.key = message, line, key


def parse_toml(text: str) -> tuple[dict[str, Any], dict[Key, int]]:
    """The values, and the line of every key and array element. Raises MalformedToml."""
    try:
        values = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        before = Scanner(error.doc[: error.pos]).scan_broken()
        raise MalformedToml(*explain_syntax_error(error, before.last, before.earlier)) from None
    except (RecursionError, ValueError) as error:  # more levels than tomli takes; a number of thousands of digits
        scanner = Scanner(text).scan_broken()  # raises where it reaches either
        raise MalformedToml(f"too long: {error}", scanner.line, scanner.last) from None
    return values, Scanner(text).scan()


class Scanner:
    """Walks a document that tomli has accepted, so it checks nothing and only counts lines."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.newlines = [match.start() for match in re.finditer("\n", text)]
        self.lines: dict[Key, int] = {}
        self.last: Key = ()  # the newest key or element
        self.earlier = 0  # the line where that key was written before; 0 for none
        self.counts: dict[Key, int] = {}  # arrays of tables: index of the newest element

    def scan(self) -> dict[Key, int]:
        table: Key = ()
        while self.skip_blank() < len(self.text):
            if self.text.startswith("[[", self.at):
                self.at += 2
                table = self.absolute_key(self.scan_key())
                self.record(table)
                self.counts[table] = self.counts.get(table, -1) + 1
                table = (*table, self.counts[table])
                self.record(table)
                self.at = self.text.index("]]", self.at) + 2
            elif self.text[self.at] == "[":
                self.at += 1
                table = self.absolute_key(self.scan_key())
                self.record(table)
                self.at = self.text.index("]", self.at) + 1
            else:
                self.scan_pair(table)
        return self.lines

    def scan_broken(self) -> Scanner:
        """Walks a document as far as it is valid. Raises MalformedToml as `scan` does."""
        with suppress(ValueError, IndexError, AssertionError):
            self.scan()
        return self

    @property
    def line(self) -> int:
        return bisect(self.newlines, self.at) + 1

    def record(self, key: Key) -> None:
        """Records the line of `key` and of the tables in it. Raises MalformedToml."""
        if len(key) > MAX_LEVELS:
            raise MalformedToml(
                f"more than {MAX_LEVELS} levels; no option is nested so deeply", self.line, key[:MAX_LEVELS]
            )
        line, self.earlier = self.line, self.lines.get(key, 0)
        for end in range(1, len(key) + 1):
            self.lines.setdefault(key[:end], line)
        self.last = key

    def absolute_key(self, key: tuple[str, ...]) -> Key:
        """`[callback.options]` after `[[callback]]` means its newest element: inserts the index."""
        if len(key) > MAX_LEVELS:  # refused by `record`
            return key
        full: Key = ()
        for part in key[:-1]:
            full = (*full, part)
            if full in self.counts:
                full = (*full, self.counts[full])
        return (*full, key[-1])

    def skip_blank(self) -> int:
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

    def scan_key(self) -> tuple[str, ...]:
        parts: list[str] = []
        while True:
            self.skip_blank()
            if self.text[self.at] in "\"'":
                parts.append(tomli.loads("key = " + self.scan_string())["key"])
            else:
                match = BARE_KEY.match(self.text, self.at)
                assert match, f"a valid document has a key at offset {self.at}"
                parts.append(match.group())
                self.at = match.end()
            if not self.text.startswith(".", self.skip_blank()):
                return tuple(parts)
            self.at += 1

    def scan_pair(self, table: Key) -> None:
        key = (*table, *self.scan_key())
        self.record(key)
        self.at += 1  # the "="
        self.scan_value(key)

    def scan_value(self, key: Key) -> None:
        self.skip_blank()
        opening = self.text[self.at]
        if opening in "\"'":
            self.scan_string()
        elif opening in "[{":
            self.at += 1
            index = 0
            while self.text[self.skip_blank()] not in "]}":
                if opening == "[":
                    self.record((*key, index))
                    self.scan_value((*key, index))
                    index += 1
                else:
                    self.scan_pair(key)
                if self.text[self.skip_blank()] == ",":
                    self.at += 1
            self.at += 1
        else:
            match = PLAIN_VALUE.match(self.text, self.at)
            assert match, f"a valid document has a value at offset {self.at}"
            if match.end() - self.at > MAX_DIGITS:
                raise MalformedToml(f"a value of {match.end() - self.at:,} characters without quotes", self.line, key)
            self.at = match.end()

    def scan_string(self) -> str:
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
