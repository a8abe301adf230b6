"""Layers of an experiment merged in order: base files, the file, the command line.

A slot's options belong to the component they were written for, so naming another component drops them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanogpt_kit.core.errors import Fault, Key, KitError, dotted, printable
from nanogpt_kit.core.key_rules import KeyRules, addressed_element, is_element_table, name_of_element
from nanogpt_kit.core.overrides import COMMAND_LINE, parse_override
from nanogpt_kit.core.replaced_components import is_element, one_component_text, replacement_note
from nanogpt_kit.core.shipped import find_experiment, path_in_messages
from nanogpt_kit.core.toml import read_extended_files

if TYPE_CHECKING:  # reading layers needs no kinds of components
    from nanogpt_kit.core.made_with import MadeWith

DEFAULT = "default"  # the location of a value that no layer has written
MAX_BITS = 64  # of TOML's integers, by its specification

Location = Callable[[Key], str]  # where the value of a key was written


class Layers:
    """The merged values, the location of each, and notes about what was dropped and appended."""

    def __init__(self, rules: KeyRules | None = None) -> None:
        self.values: dict[str, Any] = {}
        self.locations: dict[Key, str] = {}  # key -> "file:line" or "command line"
        self.heights: dict[Key, int] = {}  # key -> the layer that wrote it, counted from 1
        self.notes: list[str] = []
        self.rules = rules or KeyRules()
        self.top = 0  # the height of the highest layer
        self.made_with: MadeWith | None = None  # of the run whose experiment this is

    @classmethod
    def load(cls, path: Path, overrides: Sequence[str] = (), rules: KeyRules | None = None) -> Layers:
        """The experiment `path` (a file, or a name) over all that it extends, then `overrides` ("model.n_layer=6").

        Raises KitError.
        """
        layers = cls(rules)
        file_path = find_experiment(str(path))
        layers.locations[()] = path_in_messages(file_path)
        for file in read_extended_files(file_path, path.parent):
            layers.add(file.values, file.location)
        layers.override(overrides)
        return layers

    def add(self, values: dict[str, Any], location: Location) -> None:
        self.top += 1
        self._merge(self.values, values, (), location)

    def override(self, overrides: Sequence[str]) -> None:
        """Applies "key=value" texts, components before their options, in whichever order they came."""
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
        """Merges (key, value, location) over all, components before their options. Raises KitError with every fault."""
        self.top += 1
        faults: list[Fault] = []
        for key, value, location in sorted(values, key=lambda item: len(item[0]) - (item[0][-1] == "use")):
            for part in reversed(key):
                value = {part: value}
            try:
                self._merge(self.values, value, (), lambda _, location=location: location)  # type: ignore[misc]
            except KitError as error:
                faults.extend(error.faults)
        if faults:
            raise KitError(*faults)

    def set_default(self, slot: str, use: str) -> None:
        """Fills a top-level component slot that no layer has filled."""
        self.values.setdefault(slot, {"use": use})

    def copy(self) -> Layers:
        """A copy that can be changed by itself. It starts without notes, so that none is printed twice."""
        other = Layers(self.rules)
        other.values, other.locations = copy.deepcopy(self.values), dict(self.locations)
        other.heights, other.top, other.made_with = dict(self.heights), self.top, self.made_with
        return other

    def drop(self, key: Key, reason: str) -> None:
        """Removes an option, with a note where a layer has written it."""
        table: Any = self.values
        for part in key[:-1]:
            table = table[part]
        if self.height(self.highest(key)):
            self.notes.append(printable(f"{dotted(key)} ({self.location(key)}) is dropped: {reason}"))
        self._forget_locations(table.pop(key[-1]), key)

    def location(self, key: Key) -> str:
        """Where `key` was written, or else the nearest table around it."""
        while key and key not in self.locations:  # the empty key is the file itself
            key = key[:-1]
        return self.locations.get(key, "")

    def height(self, key: Key) -> int:
        """The layer that wrote `key`, counted from 1; 0 where none did."""
        if key not in self.heights and key[-1:] == ("use",):  # norm = "rmsnorm" is short for { use = "rmsnorm" }
            key = key[:-1]
        return self.heights.get(key, 0)

    def highest(self, at: Key) -> Key:
        """The key at or below `at` that the highest layer wrote."""
        return max([at, *(key for key in self.heights if key[: len(at)] == at)], key=self.height)

    def _record(self, at: Key, location: str) -> None:
        self.locations[at], self.heights[at] = location, 0 if location == DEFAULT else self.top

    def _merge(self, lower: Any, upper: Any, at: Key, location: Location) -> Any:
        """Merges `upper` over `lower`, both the value at key `at`, and returns the result."""
        if lower is None and is_element_table(upper):
            default = self.rules.default_list(at)
            lower = None if default is None else self._copy_in(default, at, lambda _: DEFAULT)
        is_whole = isinstance(upper, dict) and "use" in upper and self.rules.takes_component(at)
        if isinstance(upper, dict) and isinstance(lower, list) and not (is_whole or self.rules.is_free_form(at, True)):
            return self._merge_elements(lower, upper, at, location)
        if addresses_elements(upper) and is_element(lower) and self.rules.is_listed(at, self.values):
            text = one_component_text(lower, upper, at, self.rules.is_layered(at, self.values))
            raise KitError(Fault(text, dotted(at), location((*at, next(iter(upper))))))
        if isinstance(upper, dict) and isinstance(lower, str):  # norm = "rmsnorm" is short for { use = "rmsnorm" }
            lower = {"use": lower}
            self.locations[(*at, "use")], self.heights[(*at, "use")] = self.locations[at], self.height(at)
        if isinstance(upper, str) and isinstance(lower, dict):
            name_location = location(at)
            upper, location = {"use": upper}, lambda _: name_location
        if isinstance(upper, dict) and isinstance(lower, dict):
            before, use = lower.get("use"), upper.get("use")
            both = isinstance(before, str) and isinstance(use, str)  # a sweep's `use` is a table
            if both and not self.rules.is_same_component(str(before), str(use)):
                self._drop_options(lower, str(use), at, location((*at, "use")))
            if at:
                self._record(at, location(at))
            for key, value in upper.items():
                lower[key] = self._merge(lower.get(key), value, (*at, key), location)
            return lower
        if lower is None and not self.rules.is_free_form(at, False) and addresses_elements(upper):
            message = "no earlier layer sets this list, so there is no element to change; give the whole list"
            if component := self.rules.default_component(at, self.values):
                message = one_component_text(component, upper, at, is_layered=True, is_default=True)
            raise KitError(Fault(message, dotted(at), location((*at, next(iter(upper))))))
        if note := replacement_note(lower, upper, at, location, self.location):
            self.notes.append(note)
        self._forget_locations(lower, at)
        return self._copy_in(upper, at, location)

    def _merge_elements(self, lower: list[Any], upper: dict[str, Any], at: Key, location: Location) -> list[Any]:
        """`callback.0.every_steps = 5` or `callback.console.every_steps = 5`: into an element of the list.

        A component that the list lacks is appended; `sampler.temperature = 0.6` sets a component's only option.
        """
        count = len(lower)
        for part, value in upper.items():
            place = location((*at, part))
            try:
                index, option = addressed_element(self.rules, lower, part, value, at, self.values)
            except KitError as error:
                raise KitError(*(Fault(fault.message, fault.key, place) for fault in error.faults)) from None
            if index == len(lower):
                lower.append(self._copy_in({"use": part}, (*at, index), lambda _, place=place: place))  # type: ignore[misc]

            def element_location(key: Key, part: str = part, option: str | None = option) -> str:
                return location((*at, part, *(() if option else key[len(at) + 1 :])))  # element 0 is key "0" here

            lower[index] = self._merge(
                lower[index], {option: value} if option else value, (*at, index), element_location
            )
        if len(lower) > count:
            names = [str(name_of_element(element)) for element in lower]
            added = f"{', '.join(names[count:])} ({location(at)})"
            self.notes.append(printable(f"{dotted(at)}: {added} appended; the list is now {', '.join(names)}"))
        return lower

    def _copy_in(self, value: Any, at: Key, location: Location) -> Any:
        """A copy of `value`, its locations recorded."""
        self._record(at, location(at))
        if isinstance(value, str):
            check_utf8(value, at, location(at))
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            got = value if value.bit_length() <= 2 * MAX_BITS else f"one of {value.bit_length():,} bits"
            message = f"should be a whole number of at most {MAX_BITS} bits, got {got}"
            raise KitError(Fault(message, dotted(at), location(at)))
        if isinstance(value, dict):
            return {key: self._copy_in(item, (*at, key), location) for key, item in value.items()}
        if isinstance(value, list):
            return [self._copy_in(item, (*at, index), location) for index, item in enumerate(value)]
        return value

    def _drop_options(self, lower: dict[str, Any], use: str, at: Key, location: str) -> None:
        """Empties the table of a component that `use`, written at `location`, replaces."""
        dropped = [key for key in lower if key != "use"]
        if dropped:
            replaced = f"{lower['use']!r} ({self.location((*at, 'use'))})"
            note = f"{dotted(at)}: {use!r} ({location}) replaces {replaced}; dropped its {', '.join(dropped)}"
            self.notes.append(printable(note))
        self._forget_locations(lower, at)
        lower.clear()

    def _forget_locations(self, value: Any, at: Key) -> None:
        """Removes the locations of `value` at key `at`, and of everything in it."""
        self.locations.pop(at, None)
        self.heights.pop(at, None)
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, item in items:
            self._forget_locations(item, (*at, key))


def check_utf8(value: str, at: Key, location: str) -> None:
    """Raises KitError for a name that is not UTF-8: Python represents its bytes as lone surrogates, TOML cannot."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        message = f"{value!r} is not UTF-8, so no experiment file can contain it; rename it, or name its folder"
        raise KitError(Fault(message, dotted(at), location)) from None


def addresses_elements(value: Any) -> bool:
    """Whether `value` sets elements of a list, as `callback.0.every_steps = 5` does for `callback`."""
    return isinstance(value, dict) and bool(value) and all(key.isdecimal() for key in value)
