"""Components that are looked up: the built-in ones, and those of plugins that may be imported."""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection
from dataclasses import dataclass

from nanogpt_kit.core.class_source import read_class_source
from nanogpt_kit.core.entry import Entry
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.isolated_import import import_isolated
from nanogpt_kit.core.kinds import KINDS, load_entry
from nanogpt_kit.core.options import Component
from nanogpt_kit.core.registry import Registry

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoundComponent:
    """An installed component."""

    entry: Entry
    component: type[Component]


def components_of_kind(kind: str, plugins: Collection[Entry] = ()) -> tuple[FoundComponent, ...]:
    """The built-in components of a kind, and those of `plugins`, the only ones of others that are imported.

    One that cannot be imported is left out, with a warning.
    """
    registry = Registry.installed()
    return import_components(registry, kind, frozenset(entry for entry in plugins if entry.kind == kind))


@functools.cache
def import_components(registry: Registry, kind: str, plugins: frozenset[Entry]) -> tuple[FoundComponent, ...]:
    found = []
    for entry in registry.of_kind(kind):
        if entry.is_plugin and entry not in plugins:
            continue
        try:
            found.append(FoundComponent(entry, load_entry(entry)))
        except KitError as error:
            logger.warning("left out: %s", error)
    return tuple(found)


def plugins_with(word: str) -> list[Entry]:
    """The components of plugins with that name or with an option of that name, by their source.

    Those that are found by an option, and so are not named, have been imported in a separate process before.
    """
    plugins = [entry for entry in Registry.installed().entries if entry.is_plugin and entry.kind in KINDS]
    named = [entry for entry in plugins if word in (entry.name, entry.qualified)]
    others = [entry for entry in plugins if entry not in named and word in options_in_source(entry)]
    return [*named, *importable_plugins(frozenset(others))]


@functools.cache
def importable_plugins(entries: frozenset[Entry]) -> frozenset[Entry]:
    """Those that can be imported, tried in separate processes; a warning about each of the others."""
    usable = set()
    for result in import_isolated(sorted(entries, key=lambda entry: entry.qualified)):
        if result.outcome == "imported":
            usable.add(result.entry)
        else:
            origin, remedy = result.entry.origin, result.entry.remedy
            logger.warning("left out: %s cannot be imported: %s%s", origin, result.cause, remedy)
    return frozenset(usable)


def options_in_source(entry: Entry) -> Collection[str]:
    """The options of a plugin's component that its source declares; none where it cannot be read."""
    source = read_class_source(entry.target)
    return source.options if source else ()
