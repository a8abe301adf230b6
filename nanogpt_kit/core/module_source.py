"""The source of a component's class: its module, and all that this imports from its own package or from loose files."""

from __future__ import annotations

import ast
import functools
import hashlib
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path

from nanogpt_kit.core.module_finder import find_module
from nanogpt_kit.core.options import Component

KIT_PACKAGE = __name__.partition(".")[0]
BUILT_IN = f"{KIT_PACKAGE}.components"
LIBRARY_FOLDERS = frozenset({"site-packages", "dist-packages"})
IDENTIFIED = frozenset({KIT_PACKAGE, "torch", "numpy"})  # by code_identity or version, wherever they are
STANDARD_LIBRARY = sysconfig.get_path("stdlib")


def class_sources(component: type[Component], local: Mapping[str, bytes]) -> dict[str, str]:
    """The SHA-256 of each module that defines a component's class, by name; "" where it has no source.

    Included are the modules of base classes that are components, too, and whatever these modules import from their own
    packages, also within functions, or from outside the folders of installed libraries, as a module beside a local
    file. The kit's own rooms are not. `local` has the source of local files as executed, by module.
    """
    waiting = [base.__module__ for base in component.__mro__ if is_component_class(base)]
    found: dict[str, str] = {}
    while waiting:
        name = waiting.pop()
        if name not in found:
            source = local.get(name) or module_source(name)
            found[name] = hashlib.sha256(source).hexdigest() if source else ""
            waiting += imports_within(name, source)
    return found


def is_component_class(base: type) -> bool:
    """Whether a class is a component that can be chosen, and not the base class of a kind."""
    return issubclass(base, Component) and base is not Component and "kind" not in vars(base)


def module_source(name: str) -> bytes:
    """What would be imported now; empty where a module has no source, as an extension module."""
    spec = find_module(name)
    get_source = getattr(spec and spec.loader, "get_source", None)
    with suppress(ImportError, SyntaxError, OSError):  # no text in the encoding that it names, or gone
        source = get_source(name) if get_source else None
        return source.encode("utf-8", "surrogatepass") if source else b""
    return b""


def imports_within(name: str, source: bytes) -> list[str]:
    """The modules that a module imports from its own package, of a built-in component those of components; and those
    that are outside installed libraries."""
    package = BUILT_IN if name.startswith(f"{BUILT_IN}.") else name.partition(".")[0]
    found = {imported: find_module(imported) for imported in imported_names(name, source)}
    return [
        imported
        for imported, spec in found.items()
        if spec and (f"{imported}.".startswith(f"{package}.") or is_loose(imported, spec))
    ]


def is_loose(name: str, spec: ModuleSpec) -> bool:
    """Whether a module is in no folder of Python or of installed libraries, as a file beside a local component is."""
    if name.partition(".")[0] in IDENTIFIED or not spec.has_location or spec.origin is None:
        return False
    path = Path(spec.origin)
    return not LIBRARY_FOLDERS.intersection(path.parts) and not path.is_relative_to(STANDARD_LIBRARY)


def imported_names(name: str, source: bytes) -> Iterator[str]:
    """The dotted names in the import statements of a module, some of which may be attributes, not modules."""
    spec = find_module(name)
    package = (name if spec and spec.submodule_search_locations else name.rpartition(".")[0]).split(".")
    for node in import_statements(source):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            parents = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*parents, *filter(None, [node.module])])
            yield from (module, *(f"{module}.{alias.name}" for alias in node.names))


@functools.lru_cache(maxsize=256)  # a run asks several times, and to parse takes most of that time
def import_statements(source: bytes) -> tuple[ast.Import | ast.ImportFrom, ...]:
    """Those of a module, also within functions; none where it cannot be parsed, as when it is edited meanwhile."""
    with suppress(SyntaxError, ValueError):
        nodes = ast.walk(ast.parse(source))
        return tuple(node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom))
    return ()
