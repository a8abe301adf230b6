"""What an experiment can name: a component of an installed distribution, imported when it is selected."""

from __future__ import annotations

import importlib
import inspect
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar, cast

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.guarded_import import FailedImport, import_plugin, name_frame
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION, unmet_requirement, warn_once

GROUP = "nanogpt_kit."  # the entry-point group of kind "norm" is "nanogpt_kit.norm"
LOCAL = "local file"
VERB = "verb"  # of the group whose entries are commands, not components


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
        component = self.checked(self.import_target(), base)
        if self.is_plugin:
            name_frame(component, "build", self.label)  # a crash in native code ends the process without a message
        return component

    @property
    def label(self) -> str:
        return f"{self.origin}{self.remedy}"

    def import_target(self) -> Any:
        """What the entry point names. Raises KitError with the distribution and the cause."""
        module, _, attribute = self.target.partition(":")
        unmet = unmet_requirement(self.distribution, self.version)
        try:
            with redirect_stdout(sys.stderr):  # standard output is for results
                imported = import_plugin(module, self.label) if self.is_plugin else importlib.import_module(module)
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


def class_fault(loaded: object, base: type[HasKind]) -> str:
    """Why something is not a component of the kind of `base`, as "is ..." or "has ..."; empty where it is one."""
    if not (isinstance(loaded, type) and issubclass(loaded, base)):
        return f"is not a {base.kind}: it does not derive from api.{base.__name__}"
    if not isinstance(loaded.__doc__, str | None):
        return f"has a docstring of type {type(loaded.__doc__).__name__}"
    if inspect.isabstract(loaded):
        return f"is incomplete: {', '.join(sorted(loaded.__abstractmethods__))} is not implemented"
    return ""


def unmet_or(unmet: str | None, remedy: str) -> str:
    return f"; {unmet}" if unmet else remedy
