"""From a component's name to its class: names from installed metadata, code only for what is selected."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from nanogpt_kit.core import trust
from nanogpt_kit.core.errors import Fault, KitError, did_you_mean
from nanogpt_kit.core.reading import read_bytes

if TYPE_CHECKING:
    from nanogpt_kit.core.options import Component

logger = logging.getLogger(__name__)

GROUP = "nanogpt_kit."  # the entry-point group of kind "norm" is "nanogpt_kit.norm"
OURS = "nanogpt-kit"  # its bare names always mean the built-ins
LOCAL = "local file"
MOST_SOURCE_BYTES = 10_000_000  # of a component file; code that people write is a thousandth of that


@dataclass(frozen=True)
class Entry:
    """A component that can be named, not yet imported."""

    kind: str
    name: str
    distribution: str
    version: str
    target: str  # "module:Class", or the path of a local file

    @property
    def qualified(self) -> str:
        return f"{self.distribution}/{self.name}"

    @property
    def identity(self) -> str:
        """Whose code it is, and which; the package's own is told by the commit in a run's provenance."""
        return "" if self.distribution == OURS else f"{self.qualified} {self.version}"

    def load(self) -> type[Component]:
        """Imports the class. Raises KitError that names distribution, entry point and cause."""
        module_name, _, attribute = self.target.partition(":")
        try:
            found = getattr(importlib.import_module(module_name), attribute)
        except (Exception, SystemExit) as error:
            cause = f"{type(error).__name__}: {error}"
            entry_point = f"{self.name} = {self.target!r} in group {GROUP}{self.kind}"
            raise KitError(
                f"{self.kind} {self.name!r} cannot be imported from distribution {self.distribution} "
                f"{self.version} (entry point {entry_point}): {cause}"
            ) from error
        return self.checked(found)

    def checked(self, found: object) -> type[Component]:
        from nanogpt_kit.core.kinds import KINDS

        if self.kind not in KINDS:
            raise KitError(
                f"{self.qualified} ({self.target}): unknown kind {self.kind!r}{did_you_mean(self.kind, KINDS)}"
            )
        if not (isinstance(found, type) and issubclass(found, KINDS[self.kind])):
            base = KINDS[self.kind].__name__
            raise KitError(f"{self.qualified} ({self.target}) is no {self.kind}: it does not derive from api.{base}")
        if inspect.isabstract(found):
            lacking = ", ".join(sorted(found.__abstractmethods__))
            raise KitError(f"{self.qualified} ({self.target}) is no whole {self.kind}: it lacks {lacking}")
        return found


@dataclass(frozen=True)
class LocalEntry(Entry):
    """The one component of a local file, executed once for each content it has had."""

    path: Path
    source: bytes  # what was consented to, and what a run keeps a copy of

    def load(self) -> type[Component]:
        return self.checked(load_file(self.path, self.source))


class Registry:
    """All components that a name may mean: installed ones, and the local files of one experiment."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = tuple(entries)

    @classmethod
    @functools.cache
    def installed(cls) -> Registry:
        return cls(discover())

    def with_files(self, paths: Sequence[Path], trusted: Sequence[Path] = ()) -> Registry:
        """Adds local component files, each under its stem. Executes them: their kind is known only then.

        Raises KitError where one cannot be read or used, and before any is executed for all that this user has not
        consented to. `trusted` ones are consented to now.
        """
        sources = [(path, read_source(path)) for path in paths]
        strange = [path for path, source in sources if not may_execute(path, source, path in trusted)]
        if strange:
            raise KitError(*(never_ran(path) for path in strange))
        return self.with_sources(sources)

    def with_sources(self, sources: Sequence[tuple[Path, bytes]]) -> Registry:
        """The same with the content of each file, which somebody has consented to."""
        local = [local_entry(path, source) for path, source in sources]
        for number, entry in enumerate(local):
            for own in (*local[:number], *self.entries):
                is_same = own.name == entry.name and own.kind == entry.kind
                is_copied_over = own.name == entry.name and isinstance(own, LocalEntry)  # in the folder of a run
                if is_copied_over or (is_same and own.distribution in (OURS, LOCAL)):
                    hidden = f"{'the built-in' if own.distribution == OURS else 'another'} {own.kind} {entry.name!r}"
                    raise KitError(Fault(f"{entry.path} would hide {hidden}; give the file another name", "components"))
        return Registry([*local, *self.entries])

    def of_kind(self, kind: str) -> list[Entry]:
        return [entry for entry in self.entries if entry.kind == kind]

    def find(self, kind: str, name: str) -> Entry:
        """The entry that `name` means: "rmsnorm", or "distribution/rmsnorm". Raises KitError."""
        offered = self.of_kind(kind)
        if "/" in name:
            found = [entry for entry in offered if entry.qualified == name]
        else:
            found = [entry for entry in offered if entry.name == name]
            found = [entry for entry in found if entry.distribution in (OURS, LOCAL)][:1] or found
        if not found:
            names = {entry.name for entry in offered} | ({e.qualified for e in offered} if "/" in name else set())
            raise KitError(f"unknown {kind} {name!r}{did_you_mean(name, names)}")
        if len(found) > 1:
            choices = " or ".join(repr(entry.qualified) for entry in found)
            raise KitError(f"{kind} {name!r} is offered by several distributions; say which: use = {choices}")
        return found[0]

    def load(self, kind: str, name: str) -> type[Component]:
        return self.find(kind, name).load()

    def entry_of(self, component: type[Component]) -> Entry:
        """The entry whose class this is, so that an experiment can be written down again."""
        for entry in self.of_kind(component.kind):
            module_name, _, attribute = entry.target.partition(":")  # perhaps not where the class was defined
            if getattr(sys.modules.get(module_name), attribute, None) is component:
                return entry
        where = f"{component.__module__}:{component.__qualname__}"
        raise KitError(f"{where} is used as {component.kind} but is no entry point of an installed distribution")

    def name_of(self, component: type[Component]) -> str:
        """The shortest name under which `find` gives this class."""
        entry = self.entry_of(component)
        try:
            return entry.name if self.find(entry.kind, entry.name) == entry else entry.qualified
        except KitError:
            return entry.qualified


def discover() -> list[Entry]:
    """Every component of every installed distribution, from metadata alone: nothing is imported."""
    entries: dict[tuple[str, str, str], Entry] = {}
    for distribution in metadata.distributions():
        try:
            if GROUP not in (distribution.read_text("entry_points.txt") or ""):
                continue
            name, version = distribution.name.lower().replace("_", "-").replace(".", "-"), distribution.version
            points = list(distribution.entry_points)
        except Exception as error:  # damaged metadata of a stranger must not break those who do not use it
            logger.warning("skipped an installed distribution whose entry points cannot be read: %s", error)
            continue
        for point in points:
            if point.group.startswith(GROUP):
                kind = point.group.removeprefix(GROUP)
                entry = Entry(kind, point.name, name, version, point.value)
                entries.setdefault((kind, name, point.name), entry)  # the first on sys.path shadows the rest
    return sorted(entries.values(), key=lambda entry: (entry.kind, entry.name, entry.distribution))


def read_source(path: Path) -> bytes:
    """Of a component file, once: the bytes that are checked are those that are executed."""
    if path.suffix != ".py":
        raise KitError(Fault(f"component file {path} should end in .py", "components"))
    try:
        return read_bytes(path, MOST_SOURCE_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise KitError(Fault(f"component file {path} cannot be read: {reason}", "components")) from None


def may_execute(path: Path, source: bytes, trust_code: bool) -> bool:
    return trust.consents(path, hashlib.sha256(source).hexdigest(), len(source), trust_code)


def never_ran(path: Path) -> Fault:
    remedy = "it can do all that you can, so read it, then add --trust-code (in Python: trust_code=True)"
    return Fault(f"component file {path} never ran here; {remedy}", "components")


def local_entry(path: Path, source: bytes) -> LocalEntry:
    component = load_file(path, source)
    target = f"{component.__module__}:{component.__qualname__}"
    version = hashlib.sha256(source).hexdigest()[:12]
    return LocalEntry(component.kind, path.stem, LOCAL, version, target, path, source)


@functools.cache
def load_file(path: Path, source: bytes) -> type[Component]:
    """Executes a component file and returns the one component class it defines.

    Cached by content: executed twice, one file would make two classes that are not equal.
    """
    from nanogpt_kit.core.options import Component

    module_name = f"nanogpt_kit_local_{path.stem}_{hashlib.sha256(source).hexdigest()[:12]}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec, f"{path} ends in .py"
        module = sys.modules[module_name] = importlib.util.module_from_spec(spec)
        try:
            # not through the loader, which would read the file again, or cached bytecode of older content
            exec(compile(source, path, "exec", dont_inherit=True), vars(module))
        except (Exception, SystemExit) as error:
            del sys.modules[module_name]
            cause = f"{type(error).__name__}: {error}"
            raise KitError(Fault(f"component file {path} cannot be imported: {cause}", "components")) from error
    found = [
        value
        for value in vars(sys.modules[module_name]).values()
        if isinstance(value, type) and issubclass(value, Component) and value.__module__ == module_name
    ]
    if len(found) != 1:
        names = ", ".join(value.__name__ for value in found) or "none"
        raise KitError(Fault(f"component file {path} should define one component class, has {names}", "components"))
    return found[0]
