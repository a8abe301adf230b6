"""The plugins that a run was made with, compared with what is installed.

What a use of the run does not need may be missing: its component is then an `Unresolved`, which keeps its values.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn

from pydantic import ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema

from nanogpt_kit.core.entry import LOCAL, Entry, HasKind
from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.key_rules import name_of_element
from nanogpt_kit.core.options import Component, RunContext
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION

# Of components that no model, tokenizer or network part contains: a trained model computes without them
MAY_BE_MISSING = frozenset(
    {"dataset", "order", "init", "optimizer", "schedule", "parallel", "evaluator", "callback", "sampler"}
)
DISTRIBUTION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]*")


@dataclass(frozen=True)
class MadeWith:
    """What a run has recorded of its plugins."""

    versions: Mapping[str, str] = field(default_factory=dict)  # by distribution; empty: not recorded
    sources: Mapping[str, str] = field(default_factory=dict)  # by distribution/name: see `plugin_sources`
    names: Mapping[tuple[str, str], str] = field(default_factory=dict)  # distribution/name by kind and bare name
    multipliers: Mapping[str, float] | None = None  # of its init, those that are not 1
    may_be_missing: frozenset[str] = MAY_BE_MISSING  # kinds

    def text(self, distribution: str) -> str:
        """Such as "ngk-attn 0.1.0"; without a version where none is recorded."""
        return f"{distribution} {self.versions.get(distribution, '')}".rstrip()

    def remedy(self, distribution: str) -> str:
        """The end of a sentence: the command that installs the recorded version.

        Empty where a name could be something else to pip: a run may come from elsewhere.
        """
        version = self.versions.get(distribution)
        if not DISTRIBUTION.fullmatch(distribution) or (version and not VERSION.fullmatch(version)):
            return ""
        return f": pip install {distribution}" + (f"=={version}" if version else "")

    def has(self, distribution: str) -> bool:
        """Whether the run may be made with it."""
        return distribution in self.versions or not self.versions

    def with_versions(self, faults: Iterable[Fault], values: Any, registry: Registry) -> list[Fault]:
        """The faults, with both versions where one is in the options of a plugin that has another version now."""
        return [self.with_version(fault, list(names_above(fault.key, values)), registry) for fault in faults]

    def with_version(self, fault: Fault, names: Sequence[str], registry: Registry) -> Fault:
        plugins = (name.partition("/")[0] for name in reversed(names) if "/" in name)
        distribution = next((name for name in plugins if self.versions.get(name)), "")
        installed = installed_version(registry, distribution)
        text = self.text(distribution)
        if not distribution or installed in ("", self.versions[distribution]) or text in fault.message:
            return fault
        reason = f"the run was made with {text}, and {installed} is installed{self.remedy(distribution)}"
        message = fault.message
        message = f"{message} {reason[0].upper()}{reason[1:]}" if message.endswith(".") else f"{message}; {reason}"
        return Fault(message, fault.key, fault.location)


class NotUsable(KitError):
    """Raised where more is needed of a component than the values that a run has of it."""


class Unresolved(Component):
    """In place of a component that cannot be used here: its values, and the reason to whoever needs more of it."""

    model_config = ConfigDict(extra="allow")

    kind: ClassVar[str] = ""
    recorded_entry: ClassVar[Entry]
    reason: ClassVar[str]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return handler(source)  # it has a kind, and is not a slot

    def refusal_reason(self, ctx: RunContext) -> str | None:
        self.fail()

    def explain_choices(self, ctx: RunContext) -> str | None:
        self.fail()

    def fail(self) -> NoReturn:
        entry = self.recorded_entry
        prefix = "" if is_kit_or_local(entry.distribution) else f"{self.kind} {entry.qualified!r}: "
        raise NotUsable(f"{prefix}{self.reason}")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            return super().__getattr__(name)  # type: ignore[misc]
        values = self.__pydantic_extra__ or {}
        if name in values:
            return values[name]
        self.fail()


class RecordedRegistry(Registry):
    """The components of a run: those of plugins that are missing may be replaced by an `Unresolved`."""

    def __init__(self, entries: Sequence[Entry], made_with: MadeWith) -> None:
        super().__init__(entries)
        self.made_with = made_with

    def find(self, kind: str, name: str) -> Entry:
        try:
            return super().find(kind, name)
        except KitError:
            recorded = self.made_with.names.get((kind, name))  # of a bare name that is missing or ambiguous now
            if recorded is not None:
                return self.find(kind, recorded)
            distribution, _, bare = name.rpartition("/")
            if is_kit_or_local(distribution) or not self.made_with.has(distribution):
                raise
        origin, remedy = self.made_with.text(distribution), self.made_with.remedy(distribution)
        installed = installed_version(self, distribution)
        if not installed:
            raise KitError(f"made with {origin}, which is not installed{remedy}")
        raise KitError(f"made with {origin}, and the installed {installed} has no {kind} {bare!r}{remedy}")

    def stand_in(self, base: type[HasKind], name: str, options: Mapping[str, Any], error: Exception) -> Any:
        """Only of plugins, and of what contains such a part: an option of a built-in component that is not valid is a
        mistake in the file."""
        made_with = self.made_with
        distribution, _, bare = name.rpartition("/")
        is_plugin = not is_kit_or_local(distribution) and made_with.has(distribution)
        if not (is_plugin or isinstance(error, NotUsable)) or base.kind not in made_with.may_be_missing:
            return None
        if not is_plugin:
            entry = self.find(base.kind, name)
            return unresolved_class(entry, str(error)).model_validate(dict(options))
        reason = first_message(error)
        if made_with.text(distribution) not in reason:
            reason = made_with.with_version(Fault(reason), [name], self).message
        entry = Entry(base.kind, bare, distribution, made_with.versions.get(distribution, ""), "")
        return unresolved_class(entry, reason).model_validate(dict(options))


@functools.lru_cache(maxsize=100)
def unresolved_class(entry: Entry, reason: str) -> type[Unresolved]:
    """A class for each, since it is by its class that a component is written to a file."""
    return type(
        "Unresolved",
        (Unresolved,),
        {"recorded_entry": entry, "reason": reason, "kind": entry.kind, "__module__": __name__},
    )


def is_kit_or_local(distribution: str) -> bool:
    """Whether components of it are of the kit or in local files; of a bare name it is empty."""
    return distribution in ("", KIT_DISTRIBUTION, LOCAL)


def first_message(error: Exception) -> str:
    """The first sentence of an error, with the option that it is about."""
    if not isinstance(error, ValidationError):
        return str(error).partition("\n")[0]
    first = error.errors(include_url=False, include_context=False)[0]
    key = ".".join(map(str, first["loc"]))
    return first["msg"] if key in ("", "use") else f"{key}: {first['msg']}"


def installed_version(registry: Registry, distribution: str) -> str:
    """The version of a distribution that offers components; empty where it is not installed."""
    return next((entry.version for entry in registry.entries if entry.distribution == distribution), "")


def names_above(key: str, values: Any) -> Iterator[str]:
    """The names of the components around an option, the outermost first; then those around a schedule's target."""
    found = list(values_along(key, values))
    if key.endswith(".target") and isinstance(found[-1], str):
        found += values_along(found[-1], values)
    for value in found:
        if isinstance(use := name_of_element(value), str):
            yield use


def values_along(key: str, values: Any) -> Iterator[Any]:
    """The values of a key and of the keys that it is within, the outermost first."""
    for part in key.split(".") if key else ():
        if isinstance(values, list):
            values = values[int(part)] if part.isdecimal() and int(part) < len(values) else None
        else:
            values = values.get(part) if isinstance(values, dict) else None
        yield values
