"""Layers of an experiment, laid over each other: base files, the file, the command line.

A slot's options belong to the component they were written for, so naming another component drops them.
"""

from __future__ import annotations

import copy
import reprlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nanogpt_kit.core import toml
from nanogpt_kit.core.errors import Fault, Key, KitError, dotted, printable

COMMAND_LINE = "command line"
BITS = 64  # of TOML's whole numbers, its specification says
SPACE = ("sweep", "space")  # below it a number in a key may be a value, as in choice.4, or part of another key


class Layers:
    """The merged values, where each was written, and what was dropped on the way."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.locations: dict[Key, str] = {}  # key -> "file:line" or "command line"
        self.notes: list[str] = []

    @classmethod
    def load(cls, path: Path, overrides: Sequence[str] = ()) -> Layers:
        """`path` over all that it extends, then `overrides` ("model.n_layer=6"). Raises KitError."""
        layers = cls()
        layers.locations[()] = str(path)
        for document in toml.chain(path):
            layers.add(document.values, lambda key, at=document: f"{at.path}:{at.lines[key]}")  # type: ignore[misc]
        layers.override(overrides)
        return layers

    def add(self, values: dict[str, Any], place: Callable[[Key], str]) -> None:
        self._lay(self.values, values, (), place)

    def override(self, overrides: Sequence[str]) -> None:
        """Applies "key=value" texts, components before their options, whatever the order they came in."""
        faults: list[Fault] = []
        parsed: list[tuple[tuple[str, ...], Any, str]] = []
        for text in overrides:
            try:
                parsed.append((*parse_override(text), COMMAND_LINE))
            except KitError as error:
                faults.extend(error.faults)
        try:
            self.set(parsed)
        except KitError as error:
            faults.extend(error.faults)
        if faults:
            raise KitError(*faults)

    def set(self, values: Sequence[tuple[tuple[str, ...], Any, str]]) -> None:
        """Lays (key, value, place) over all, components before their options. Raises KitError with every fault."""
        faults: list[Fault] = []
        for key, value, place in sorted(values, key=lambda one: len(one[0]) - (one[0][-1] == "use")):
            for part in reversed(key):
                value = {part: value}
            try:
                self._lay(self.values, value, (), lambda _, place=place: place)  # type: ignore[misc]
            except KitError as error:
                faults.extend(error.faults)
        if faults:
            raise KitError(*faults)

    def set_default(self, slot: str, use: str) -> None:
        """Fills a top-level component slot that no layer has filled."""
        self.values.setdefault(slot, {"use": use})

    def copy(self) -> Layers:
        """To be changed without changing this one. What was dropped before is not told again."""
        other = Layers()
        other.values, other.locations = copy.deepcopy(self.values), dict(self.locations)
        return other

    def location(self, key: Key) -> str:
        """Where `key` was written, or else the nearest table around it."""
        while key and key not in self.locations:  # the empty key is the file itself
            key = key[:-1]
        return self.locations.get(key, "")

    def _lay(self, lower: Any, upper: Any, at: Key, place: Callable[[Key], str]) -> Any:
        """Lays `upper` over `lower`, both the value at key `at`, and returns what holds."""
        if isinstance(upper, dict) and isinstance(lower, list) and not may_branch(at):
            return self._lay_elements(lower, upper, at, place)
        if isinstance(upper, dict) and isinstance(lower, str):  # norm = "rmsnorm" is short for { use = "rmsnorm" }
            lower = {"use": lower}
            self.locations[(*at, "use")] = self.locations[at]
        if isinstance(upper, str) and isinstance(lower, dict):
            where = place(at)
            upper, place = {"use": upper}, lambda _: where
        if isinstance(upper, dict) and isinstance(lower, dict):
            before, use = lower.get("use"), upper.get("use")
            if isinstance(before, str) and isinstance(use, str) and before != use:  # a sweep's `use` is a table
                self._drop(lower, use, at, place((*at, "use")))
            if at:
                self.locations[at] = place(at)
            for key, value in upper.items():
                lower[key] = self._lay(lower.get(key), value, (*at, key), place)
            return lower
        if lower is None and at[:2] != SPACE and is_address(upper):
            message = "no layer below has this list, so it has no elements to address; give the whole list"
            raise KitError(Fault(message, dotted(at), place(at)))
        self._forget(lower, at)
        return self._take(upper, at, place)

    def _lay_elements(self, lower: list[Any], upper: dict[str, Any], at: Key, place: Callable[[Key], str]) -> list[Any]:
        """`callback.0.every_steps = 5`: into an element that is already there."""
        for number, value in upper.items():
            if not number.isdecimal() or int(number) >= len(lower):
                allowed = f"a number from 0 to {len(lower) - 1}" if lower else "nothing: the list is empty"
                message = f"is a list, so the next part of the key should be {allowed}, got {number!r}"
                raise KitError(Fault(message, dotted(at), place(at)))

            def written(key: Key, number: str = number) -> str:  # what is element 0 below is key "0" in this layer
                return place((*at, number, *key[len(at) + 1 :]))

            index = int(number)
            lower[index] = self._lay(lower[index], value, (*at, index), written)
        return lower

    def _take(self, value: Any, at: Key, place: Callable[[Key], str]) -> Any:
        """A copy of `value`, its places recorded."""
        self.locations[at] = place(at)
        if isinstance(value, str):
            check_utf8(value, at, place(at))
        if isinstance(value, int) and value.bit_length() > BITS:
            got = value if value.bit_length() <= 2 * BITS else f"one of {value.bit_length():,}"
            raise KitError(Fault(f"should be a whole number of at most {BITS} bits, got {got}", dotted(at), place(at)))
        if isinstance(value, dict):
            return {key: self._take(item, (*at, key), place) for key, item in value.items()}
        if isinstance(value, list):
            return [self._take(item, (*at, index), place) for index, item in enumerate(value)]
        return value

    def _drop(self, lower: dict[str, Any], use: str, at: Key, where: str) -> None:
        dropped = [key for key in lower if key != "use"]
        if dropped:
            before = f"{lower['use']!r} ({self.location((*at, 'use'))})"
            note = f"{dotted(at)}: {use!r} ({where}) takes the place of {before}; dropped its {', '.join(dropped)}"
            self.notes.append(printable(note))
        self._forget(lower, at)
        lower.clear()

    def _forget(self, value: Any, at: Key) -> None:
        """Removes the places of `value` at key `at`, and of all that is in it."""
        self.locations.pop(at, None)
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, item in items:
            self._forget(item, (*at, key))


def check_utf8(value: str, at: Key, place: str) -> None:
    """Raises KitError for a name that is not UTF-8: Python represents its bytes as lone surrogates, TOML cannot."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        message = f"{value!r} is not UTF-8, so no experiment file can hold it; rename it, or name the folder around it"
        raise KitError(Fault(message, dotted(at), place)) from None


def may_branch(at: Key) -> bool:
    """Whether `at` is a choice of a sweep: a list of values, or a table whose keys are the values."""
    return at[:2] == SPACE and at[-1] == "choice"


def is_address(value: Any) -> bool:
    """Whether `value` is what `callback.0.every_steps = 5` says of `callback`."""
    return isinstance(value, dict) and bool(value) and all(key.isdecimal() for key in value)


def parse_override(text: str) -> tuple[tuple[str, ...], Any]:
    """("optimizer", "lr"), 3e-4 from "optimizer.lr=3e-4". A right-hand side that is not TOML is a plain string."""
    left, equals, right = text.partition("=")
    key = override_key(left) if equals and "\n" not in left else ()
    if not key:
        expected = "expected key=value, as in optimizer.lr=3e-4"
        raise KitError(Fault(f"{expected}, got {abridged(text)}", location=COMMAND_LINE))
    if "\n" in right:
        return key, right
    try:
        values, _ = toml.parse(f"value = {right}")
    except toml.Malformed as error:
        if right[:1] in tuple("[{\"'"):
            message = f"not a TOML value: {error.message}, in {abridged(right)}"
            raise KitError(Fault(message, dotted(key), COMMAND_LINE)) from None
        return key, right
    return key, values["value"]


def abridged(text: str) -> str:
    """As Python writes it, without its middle where it is long, and of a URL its beginning: the end of it without the
    rest may be that of a password, and nobody could see that.
    """
    before, mark, _ = text.partition("://")
    return repr(f"{before[-20:]}{mark}...") if mark else reprlib.repr(text)


def override_key(text: str) -> tuple[str, ...]:
    """Empty where it is not a dotted key."""
    try:
        node, _ = toml.parse(f"{text} = 0")
    except toml.Malformed:
        return ()
    key: tuple[str, ...] = ()
    while isinstance(node, dict) and len(node) == 1:
        part, node = next(iter(node.items()))
        key = (*key, part)
    return () if isinstance(node, dict) else key
