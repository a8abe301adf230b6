"""Finds components by name: names come from installed metadata, and only the code of a selected component is imported.

Callers pass the base class of a kind, so this module depends on none of them.
"""

from __future__ import annotations

import functools
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from nanogpt_kit.core.deprecation import DEPRECATED_COMPONENTS
from nanogpt_kit.core.entry import GROUP, LOCAL, VERB, C, Entry, HasKind
from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.foreign_component_names import did_you_mean_component
from nanogpt_kit.core.local_component import LocalEntry, consent_fault, has_consent, local_entry, read_component_file
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION

logger = logging.getLogger(__name__)


class Registry:
    """All components that a name may mean: the installed ones, and the local files of one experiment."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = tuple(entry for entry in entries if entry.kind != VERB)
        self.verbs = tuple(entry for entry in entries if entry.kind == VERB)

    @classmethod
    @functools.cache
    def installed(cls) -> Registry:
        return cls(discover_entries())

    def with_files(self, base: type[HasKind], paths: Sequence[Path], trusted: Sequence[Path] = ()) -> Registry:
        """Adds local component files, each under its stem. Executes them: their kind is not known before.

        `base` is what every component class derives from. Raises KitError where a file cannot be read or used, and,
        before any is executed, for each that this user has not consented to; `trusted` ones are consented to now.
        """
        sources = [(path, read_component_file(path)) for path in paths]
        unknown = [path for path, source in sources if not has_consent(path, source, path in trusted)]
        if unknown:
            raise KitError(*(consent_fault(path) for path in unknown))
        return self.with_sources(base, sources)

    def with_sources(self, base: type[HasKind], sources: Sequence[tuple[Path, bytes]]) -> Registry:
        """Adds local component files by their content, which somebody has consented to."""
        local = [local_entry(base, path, source) for path, source in sources]
        for index, entry in enumerate(local):
            for other in (*local[:index], *self.entries):
                is_same = other.name == entry.name and other.kind == entry.kind
                has_same_copy = other.name == entry.name and isinstance(other, LocalEntry)  # in the folder of a run
                if has_same_copy or (is_same and other.distribution in (KIT_DISTRIBUTION, LOCAL)):
                    article = "the built-in" if other.distribution == KIT_DISTRIBUTION else "another"
                    hidden = f"{article} {other.kind} {entry.name!r}"
                    raise KitError(Fault(f"{entry.path} would hide {hidden}; give the file another name", "components"))
        return Registry([*local, *self.entries])

    def of_kind(self, kind: str) -> list[Entry]:
        return [entry for entry in self.entries if entry.kind == kind]

    def names(self, kind: str) -> list[str]:
        """The shortest names of the components of a kind, sorted."""
        return sorted(self.shortest_name(entry) for entry in self.of_kind(kind))

    def find(self, kind: str, name: str) -> Entry:
        """The entry that `name` means: "rmsnorm", or "distribution/rmsnorm". Raises KitError."""
        entries = self.of_kind(kind)
        if "/" in name:
            matches = [entry for entry in entries if entry.qualified == name]
        else:
            matches = [entry for entry in entries if entry.name == name]
            matches = [entry for entry in matches if entry.distribution in (KIT_DISTRIBUTION, LOCAL)][:1] or matches
        deprecation = DEPRECATED_COMPONENTS.get((kind, name.removeprefix(f"{KIT_DISTRIBUTION}/")))
        if not matches and deprecation:
            deprecation.warn_user(f"{kind} {name}")
            return self.find(kind, deprecation.replacement)
        if not matches:
            names = {entry.name for entry in entries} | ({e.qualified for e in entries} if "/" in name else set())
            raise KitError(f"unknown {kind} {name!r}{did_you_mean_component(kind, name, names)}")
        if len(matches) > 1:
            choices = " or ".join(repr(entry.qualified) for entry in matches)
            raise KitError(f"several distributions offer {kind} {name!r}; choose one: use = {choices}")
        return matches[0]

    def stand_in(self, base: type[HasKind], name: str, options: Mapping[str, Any], error: Exception) -> Any:
        """What takes the place of a component that cannot be used because of `error`; None: the error is reported."""
        return None

    def load(self, base: type[C], name: str) -> type[C]:
        """The class that `name` means where a component derived from `base` is expected. Raises KitError."""
        return self.find(base.kind, name).load(base)

    def entry_of(self, component: type[HasKind]) -> Entry:
        """The entry whose class this is, so that an experiment can be written to a file again."""
        recorded = getattr(component, "recorded_entry", None)  # of a component that cannot be used here
        if isinstance(recorded, Entry):
            return recorded
        for entry in self.of_kind(component.kind):
            module_name, _, attribute = entry.target.partition(":")  # perhaps not where the class was defined
            if getattr(sys.modules.get(module_name), attribute, None) is component:
                return entry
        where = f"{component.__module__}:{component.__qualname__}"
        raise KitError(f"{where} is used as {component.kind}, but no installed distribution has an entry point for it")

    def name_of(self, component: type[HasKind]) -> str:
        """The name by which a file chooses this class, whatever is installed later: of plugins distribution/name."""
        entry = self.entry_of(component)
        return entry.name if entry.distribution in (KIT_DISTRIBUTION, LOCAL) else entry.qualified

    def short_name(self, component: type[HasKind]) -> str:
        """The shortest name that means this class among what is installed now, to be typed on a command line."""
        return self.shortest_name(self.entry_of(component))

    def shortest_name(self, entry: Entry) -> str:
        """The bare name where it means this entry, else the qualified one."""
        try:
            return entry.name if self.find(entry.kind, entry.name) == entry else entry.qualified
        except KitError:
            return entry.qualified


def discover_entries() -> list[Entry]:
    """Every component and verb of every installed distribution, from metadata alone: nothing is imported."""
    entries: dict[tuple[str, str, str], Entry] = {}
    for distribution in metadata.distributions():
        try:
            if GROUP not in (distribution.read_text("entry_points.txt") or ""):
                continue
            name, version = distribution.name.lower().replace("_", "-").replace(".", "-"), distribution.version
            points = list(distribution.entry_points)
        except Exception as error:  # damaged metadata must not break experiments that do not use that distribution
            folder = getattr(distribution, "_path", "an unknown folder")  # which no public name has
            logger.warning("skipped an installed distribution whose entry points cannot be read: %s: %s", folder, error)
            continue
        for point in points:
            if point.group.startswith(GROUP):
                kind = point.group.removeprefix(GROUP)
                target = re.sub(r"\s*\[.*\]$|\s+", "", point.value)  # without extras, as in "module:Class [extra]"
                entry = Entry(kind, point.name, name, version, target)
                entries.setdefault((kind, name, point.name), entry)  # the first on sys.path shadows the rest
    return sorted(entries.values(), key=lambda entry: (entry.kind, entry.name, entry.distribution))
