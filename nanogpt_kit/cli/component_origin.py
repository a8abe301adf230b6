"""Where a component is from, and how an experiment and its author's tests name it."""

from __future__ import annotations

import inspect
from typing import Any

from nanogpt_kit.core.describe import component_docstring, component_source
from nanogpt_kit.core.entry import Entry
from nanogpt_kit.core.found_components import FoundComponent
from nanogpt_kit.core.installed_names import NameFault, name_fault
from nanogpt_kit.core.kinds import KINDS
from nanogpt_kit.core.options import Component
from nanogpt_kit.core.registry import Registry


def origin_of(found: FoundComponent) -> list[tuple[str, str]]:
    """(label, text) of each property, the empty ones included."""
    entry, file = found.entry, source_file(found.component)
    source = component_source(found.component)
    is_shown = source in " ".join(component_docstring(found.component).split())
    return [
        ("source", "" if is_shown else source),
        ("use", use_text(entry, found_fault(entry))),
        ("class", f"{found.component.__module__}:{found.component.__qualname__}"),
        ("file", file if entry.is_plugin else ""),
        ("suite", suite_of(entry.kind)),
    ]


def origin_record(found: FoundComponent) -> dict[str, Any]:
    entry, fault = found.entry, found_fault(found.entry)
    return {
        "source": component_source(found.component),
        "use": Registry.installed().shortest_name(entry),
        "status": fault.status if fault else "usable",
        "class": f"{found.component.__module__}:{found.component.__qualname__}",
        "file": source_file(found.component),
        "suite": suite_of(entry.kind),
    }


def found_fault(entry: Entry) -> NameFault | None:
    return name_fault(entry, Registry.installed())


def use_text(entry: Entry, fault: NameFault | None) -> str:
    """What an experiment writes to choose a component, and why its bare name does not."""
    name = Registry.installed().shortest_name(entry)
    return f'"{name}"; {fault.cause}' if fault else f'"{name}"'


def suite_of(kind: str) -> str:
    """The suite that an author's tests inherit."""
    return f"nanogpt_kit.testing.{kind}:{KINDS[kind].__name__}Conformance"


def source_file(component: type[Component]) -> str:
    try:
        return inspect.getsourcefile(component) or ""
    except (OSError, TypeError):  # a class of a compiled module
        return ""
