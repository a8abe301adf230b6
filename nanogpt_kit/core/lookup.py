"""Finds what a key or a name may mean: options, sections, components and kinds.

A component of a plugin is imported where a word names it or, by its source, an option of it; never because it is there.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from nanogpt_kit.core.describe import OptionDescription, describe_options
from nanogpt_kit.core.entry import Entry
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.experiment_keys import component_of_list
from nanogpt_kit.core.foreign_component_names import foreign_components
from nanogpt_kit.core.foreign_names import Answer, foreign_option, plain
from nanogpt_kit.core.found_components import (
    FoundComponent,
    components_of_kind,
    options_in_source,
    plugins_with,
)
from nanogpt_kit.core.kinds import KINDS, load_entry
from nanogpt_kit.core.option_schema import element_options, inner_options, option_schemas, slot_kind
from nanogpt_kit.core.options import Options
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.suggestions import question, with_remark

MAX_NEAREST = 3  # names that an error shows
MIN_SIMILARITY = 0.7  # of those, as difflib measures it


@dataclass(frozen=True)
class FoundOption:
    """An option, and the key under which an experiment sets it."""

    key: tuple[str, ...]  # without the indices of lists
    owner: type[Options]
    entry: Entry | None  # of the component that has it; None for a section's
    option: OptionDescription

    @property
    def written_key(self) -> str:
        """The key as on a command line: `callback.ema.decay` for an option of a component in a list."""
        is_listed = self.entry and self.entry.kind == self.key[0] and component_of_list(Experiment, self.key[:1])
        return ".".join((self.key[0], self.entry.name, *self.key[1:]) if self.entry and is_listed else self.key)

    @property
    def kind(self) -> str | None:
        """The kind of the components that it takes."""
        return slot_kind(option_schemas(self.owner)[self.option.name])

    @property
    def table(self) -> type[Options] | None:
        """The class of the table that it takes, or of the tables in its list."""
        return inner_options(self.owner, self.option.name) or element_options(self.owner, self.option.name)


@dataclass(frozen=True)
class FoundKind:
    """A kind, and the options that take its components."""

    kind: str
    slots: tuple[FoundOption, ...]


Found = FoundOption | FoundComponent | FoundKind


def find_by_name(text: str) -> list[Found]:
    """Everything that `text` may mean; where it is neither a key nor a name, the options whose keys end with it.

    Brackets around it and a value behind it are ignored. Where there is nothing, raises KitError with what another
    program's name means here, or the nearest names.
    """
    text = text.partition("=")[0].strip("[] ")
    parts = tuple(part for part in text.split(".") if not part.isdecimal())
    found = [*find_key(parts, Experiment), *find_components(text), *find_in_kind(parts)]
    found = [one for index, one in enumerate(found) if one not in found[:index]]
    if parts and not found:
        options = all_options(plugins_with(parts[-1]))
        found = [option for option in options if option.key[-len(parts) :] == parts]
    if not found:
        raise KitError(f"no section, option, kind or component is named {text!r}{nearest_names(text)}")
    return found


def find_key(
    parts: tuple[str, ...],
    owner: type[Options],
    above: tuple[str, ...] = (),
    entry: Entry | None = None,
    may_change: bool = False,
) -> Iterator[Found]:
    """What the rest of a dotted key means below `above`, the table of `owner`.

    Below a component slot stands an option of any component of its kind, or the name of one.
    """
    for option in describe_options(owner, may_change):
        if not parts or option.name != parts[0]:
            continue
        found = FoundOption((*above, option.name), owner, entry, option)
        rest = parts[1:]
        if not rest or (rest == ("use",) and found.kind):
            yield found
        elif found.table:
            of_table = None if element_options(owner, option.name) else entry  # such tables are of every component
            yield from find_key(rest, found.table, found.key, of_table, option.may_change_on_resume)
        elif found.kind:
            for one in components_of_kind(found.kind, plugins_with(rest[0])):
                is_named = rest[0] in (one.entry.name, one.entry.qualified)
                if is_named and len(rest) == 1:
                    yield one
                below = rest[1:] if is_named else rest
                yield from find_key(below, one.component, found.key, one.entry, option.may_change_on_resume)


def find_components(text: str) -> Iterator[FoundComponent]:
    """Components named as in "gpt", "norm/layernorm", "distribution/my_norm" or "schedule:distribution/cosine".

    Raises KitError where none of that name can be imported; one that cannot is left out beside others, with a warning.
    """
    entries = find_entries(text)
    kinds = dict.fromkeys(entry.kind for entry in entries)
    found = [one for kind in kinds for one in components_of_kind(kind, entries) if one.entry in entries]
    yield from found or [FoundComponent(entry, load_entry(entry)) for entry in entries]


def find_entries(text: str) -> list[Entry]:
    """Components with that name, not imported; the name may be qualified by kind or distribution."""
    kind, _, name = text.rpartition(":")
    return [
        entry
        for entry in Registry.installed().entries
        if (not kind or entry.kind == kind) and name in (entry.name, entry.qualified, f"{entry.kind}/{entry.name}")
    ]


def find_in_kind(parts: tuple[str, ...]) -> Iterator[Found]:
    """What a key means that begins with a kind that is not a section, or with the name of a component."""
    if not parts:
        return
    first, rest = parts[0], parts[1:]
    if first in KINDS and first not in Experiment.model_fields:
        slots = slots_of_kind(first)
        if not rest:
            yield FoundKind(first, slots)
        for slot in slots if rest else ():
            yield from find_key((slot.option.name, *rest), slot.owner, slot.key[:-1], slot.entry)
        of_plugins = plugins_with(rest[0]) if rest and not slots else ()
        for one in components_of_kind(first, of_plugins) if rest and not slots else ():  # formats are in no experiment
            yield from find_key(rest, one.component, (first,), one.entry)
    elif rest:
        entries = find_entries(first)
        options = all_options(entries) if entries else ()
        yield from (option for option in options if option.entry in entries and option.key[-len(rest) :] == rest)


def slots_of_kind(kind: str) -> tuple[FoundOption, ...]:
    """The options that take components of a kind."""
    return tuple(option for option in all_options() if option.kind == kind)


def all_options(plugins: Collection[Entry] = ()) -> tuple[FoundOption, ...]:
    """Every option of the sections, of all built-in components and of the components of `plugins`."""
    return options_of_registry(Registry.installed(), frozenset(plugins))


@functools.cache
def options_of_registry(registry: Registry, plugins: frozenset[Entry]) -> tuple[FoundOption, ...]:
    assert registry is Registry.installed(), "the key of the cache"
    return tuple(walk_options(Experiment, (), None, False, (), plugins))


def walk_options(
    owner: type[Options],
    above: tuple[str, ...],
    entry: Entry | None,
    may_change: bool,
    kinds: tuple[str, ...],
    plugins: frozenset[Entry],
) -> Iterator[FoundOption]:
    """The options of `owner` and of all tables and components below it; `kinds` are those of the slots above it."""
    for option in describe_options(owner, may_change):
        found = FoundOption((*above, option.name), owner, entry, option)
        yield found
        may_change_below = option.may_change_on_resume
        if found.table and not element_options(owner, option.name):  # whose options are found below their own key only
            yield from walk_options(found.table, found.key, entry, may_change_below, kinds, plugins)
        elif found.kind and found.kind not in kinds:  # muon takes an optimizer
            for one in components_of_kind(found.kind, plugins):
                below = (*kinds, found.kind)
                yield from walk_options(one.component, found.key, one.entry, may_change_below, below, plugins)


def foreign_meaning(text: str) -> list[Answer]:
    """What another program's name of an option or a component means here."""
    section, _, name = text.rpartition(".")
    answer = foreign_option(name, section.partition(".")[0])
    return [answer] if answer else foreign_components(name)


def other_meaning(text: str, found: list[Found]) -> str:
    """The option that another program's name means here, as nanoGPT's batch_size; empty where it is among `found`, or
    an option of a component there."""
    answer = foreign_option(text)
    key = answer[0].partition("=")[0] if answer else ""
    is_found = any(f"{key}.".startswith(f"{name_of(one)}.") for one in found)
    return "" if not answer or not key or is_found else with_remark(answer)


def name_of(found: Found) -> str:
    """The key of an option; of a component that with which an experiment names it: `sampler.top_k`."""
    if isinstance(found, FoundOption):
        return found.written_key
    return f"{found.entry.kind}.{found.entry.name}" if isinstance(found, FoundComponent) else found.kind


def nearest_names(text: str) -> str:
    """The end of a message about an unknown name: what it means here, or the nearest keys, components and kinds."""
    answers = foreign_meaning(text)
    if answers:
        return f"; {question(answers)}"
    text, options = plain(text), all_options()
    names: Iterable[str] = {
        *KINDS,
        *(entry.name for entry in Registry.installed().entries),
        *(name for entry in Registry.installed().entries if entry.is_plugin for name in options_in_source(entry)),
        *(option.option.name for option in options),
        *(option.written_key for option in options),
    }
    close = difflib.get_close_matches(text, sorted(names), MAX_NEAREST, MIN_SIMILARITY)
    close += difflib.get_close_matches(text.rpartition(".")[2], sorted(names), n=1) if not close else []
    nearest = f"; did you mean {' or '.join(map(repr, close))}?" if close else "."
    return f"{nearest} `nanogpt-kit explain` lists sections and kinds."
