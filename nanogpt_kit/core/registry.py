"""Finds components by name: names come from installed metadata, and only the code of a selected component is imported.

Callers pass the base class of a kind, so this module depends on none of them.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import inspect
import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, cast

from nanogpt_kit.core import trust
from nanogpt_kit.core.deprecation import DEPRECATED_COMPONENTS
from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.foreign_component_names import did_you_mean_component
from nanogpt_kit.core.guarded_import import FailedImport, import_plugin
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION, unmet_requirement, warn_once
from nanogpt_kit.system.reading import read_bytes

logger = logging.getLogger(__name__)

GROUP = "nanogpt_kit."  # the entry-point group of kind "norm" is "nanogpt_kit.norm"
LOCAL = "local file"
VERB = "verb"  # of the group whose entries are commands, not components
MAX_SOURCE_BYTES = 10_000_000  # of a component file; handwritten code has a thousandth of that


class HasKind(Protocol):
    """The part of a component class that the registry uses."""

    kind: ClassVar[str]


C = TypeVar("C", bound=HasKind)


@dataclass(frozen=True)
class Entry:
    """A component that an experiment can name, or a verb of the command line; not imported yet."""

    kind: str
    name: str
    distribution: str
    version: str
    target: str  # "module:Class", or the path of a local file

    @property
    def qualified(self) -> str:
        return f"{self.distribution}/{self.name}"

    @property
    def is_plugin(self) -> bool:
        """Whether it is of an installed distribution other than the kit."""
        return self.distribution not in (KIT_DISTRIBUTION, LOCAL)

    @property
    def identity(self) -> str:
        """Distribution, name and version; empty for built-ins, which the commit in a run's provenance identifies."""
        return "" if self.distribution == KIT_DISTRIBUTION else f"{self.qualified} {self.version}"

    @property
    def record(self) -> dict[str, str]:
        """What identifies it, for programs."""
        return {key: getattr(self, key) for key in ("kind", "name", "distribution", "version")}

    @property
    def origin(self) -> str:
        """What it is and where it is from, for messages: with the entry point, which its author can search for."""
        what = f"{self.kind} {self.name!r} from distribution {self.distribution} {self.version}"
        return f"{what} (entry point {self.name} = {self.target!r} in group {GROUP}{self.kind})"

    @property
    def remedy(self) -> str:
        """The end of a message about a plugin that is broken."""
        inspect_it = f"`nanogpt-kit plugins doctor {self.distribution}` inspects it"
        return "" if self.distribution == KIT_DISTRIBUTION else f"; {inspect_it}, pip can upgrade or uninstall it"

    def load(self, base: type[C]) -> type[C]:
        """Imports the class, which should derive from `base`. Raises KitError with the distribution and the cause."""
        return self.checked(self.import_target(), base)

    def import_target(self) -> Any:
        """What the entry point names. Raises KitError with the distribution and the cause."""
        module, _, attribute = self.target.partition(":")
        unmet = unmet_requirement(self.distribution, self.version)
        try:
            with redirect_stdout(sys.stderr):  # standard output is for results
                label = f"{self.origin}{self.remedy}"
                imported = import_plugin(module, label) if self.is_plugin else importlib.import_module(module)
            loaded = getattr(imported, attribute)
        except FailedImport as error:
            raise KitError(f"{self.origin} cannot be imported: {error}{unmet_or(unmet, self.remedy)}") from error
        except Exception as error:
            cause = f"{type(error).__name__}: {error}{unmet_or(unmet, self.remedy)}"
            raise KitError(f"{self.origin} cannot be imported: {cause}") from error
        if unmet:
            warn_once(unmet)
        return loaded

    def checked(self, loaded: object, base: type[C]) -> type[C]:
        """`loaded`, which should be a class derived from `base`. Raises KitError."""
        if fault := class_fault(loaded, base):
            raise KitError(f"{self.origin} {fault}{self.remedy}")
        return cast(type[C], loaded)


@dataclass(frozen=True)
class LocalEntry(Entry):
    """The component of a local file, executed once for each content it has had."""

    path: Path
    source: bytes  # the content that was consented to, of which a run keeps a copy
    component: type[Any]

    @property
    def origin(self) -> str:
        return f"{self.kind} {self.name!r} in {self.path}"

    @property
    def remedy(self) -> str:
        return ""

    def load(self, base: type[C]) -> type[C]:
        return self.checked(self.component, base)


def class_fault(loaded: object, base: type[HasKind]) -> str:
    """Why something is not a component of the kind that `base` is of, as "is ..."; empty where it is one."""
    if not (isinstance(loaded, type) and issubclass(loaded, base)):
        return f"is not a {base.kind}: it does not derive from api.{base.__name__}"
    if inspect.isabstract(loaded):
        return f"is incomplete: {', '.join(sorted(loaded.__abstractmethods__))} is not implemented"
    return ""


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


def unmet_or(unmet: str | None, remedy: str) -> str:
    return f"; {unmet}" if unmet else remedy


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
                entry = Entry(kind, point.name, name, version, point.value)
                entries.setdefault((kind, name, point.name), entry)  # the first on sys.path shadows the rest
    return sorted(entries.values(), key=lambda entry: (entry.kind, entry.name, entry.distribution))


def read_component_file(path: Path) -> bytes:
    """Reads a component file once: the bytes that are checked are those that are executed."""
    if path.suffix != ".py":
        raise KitError(Fault(f"component file {path} should end in .py", "components"))
    try:
        return read_bytes(path, MAX_SOURCE_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise KitError(Fault(f"component file {path} cannot be read: {reason}", "components")) from None


def has_consent(path: Path, source: bytes, trust_code: bool) -> bool:
    return trust.obtain_consent(path, hashlib.sha256(source).hexdigest(), len(source), trust_code)


def consent_fault(path: Path) -> Fault:
    remedy = "it can do everything that you can, so read it, then add --trust-code (in Python: trust_code=True)"
    return Fault(f"component file {path} has never run on this machine; {remedy}", "components")


def local_entry(base: type[HasKind], path: Path, source: bytes) -> LocalEntry:
    component = execute_component_file(base, path, source)
    target = f"{component.__module__}:{component.__qualname__}"
    version = hashlib.sha256(source).hexdigest()[:12]
    return LocalEntry(component.kind, path.stem, LOCAL, version, target, path, source, component)


@functools.cache
def execute_component_file(base: type[HasKind], path: Path, source: bytes) -> type[HasKind]:
    """Executes a component file and returns the one class derived from `base` that it defines.

    Cached by content: executed twice, one file would make two classes that are not equal.
    """
    module_name = f"nanogpt_kit_local_{path.stem}_{hashlib.sha256(source).hexdigest()[:12]}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec, f"{path} ends in .py"
        module = sys.modules[module_name] = importlib.util.module_from_spec(spec)
        try:
            # not through the loader, which would read the file again, or cached bytecode of older content
            with redirect_stdout(sys.stderr):
                exec(compile(source, path, "exec", dont_inherit=True), vars(module))
        except (Exception, SystemExit) as error:
            del sys.modules[module_name]
            cause = f"{type(error).__name__}: {error}"
            raise KitError(Fault(f"component file {path} cannot be imported: {cause}", "components")) from error
    components = [
        value
        for value in vars(sys.modules[module_name]).values()
        if isinstance(value, type) and issubclass(value, base) and value.__module__ == module_name
    ]
    if len(components) != 1:
        names = ", ".join(value.__name__ for value in components) or "none"
        raise KitError(Fault(f"component file {path} should define one component class, has {names}", "components"))
    return components[0]
