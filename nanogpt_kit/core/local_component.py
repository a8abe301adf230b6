"""Local component files: Python files beside an experiment, each with one component class, executed with consent."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanogpt_kit.core import trust
from nanogpt_kit.core.entry import LOCAL, C, Entry, HasKind
from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.system.reading import read_bytes

MAX_SOURCE_BYTES = 10_000_000  # of a component file; handwritten code has a thousandth of that


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
