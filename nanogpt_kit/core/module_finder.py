"""Finds modules without importing anything."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec, PathFinder


def find_module(name: str) -> ModuleSpec | None:
    """Finds a module, and imports nothing, unlike `importlib.util.find_spec`."""
    if name in sys.modules:
        return getattr(sys.modules[name], "__spec__", None)
    if "." not in name:
        return PathFinder.find_spec(name)
    parent = find_module(name.rpartition(".")[0])
    locations = parent.submodule_search_locations if parent else None
    return PathFinder.find_spec(name, locations) if locations else None
