"""The local component files of an experiment, and the registry that has their components."""

from __future__ import annotations

from pathlib import Path

from nanogpt_kit.core.changes import PYTHON
from nanogpt_kit.core.errors import Fault, Key, KitError
from nanogpt_kit.core.layers import Layers
from nanogpt_kit.core.made_with import RecordedRegistry
from nanogpt_kit.core.options import Component
from nanogpt_kit.core.overrides import COMMAND_LINE
from nanogpt_kit.core.paths import expand_path
from nanogpt_kit.core.registry import Registry


def load_registry(layers: Layers, folder: Path, trust_code: bool = False) -> Registry:
    """The installed components and those of the local files, which are executed; `folder` is what they are relative to.

    Where the layers are the experiment of a run, some of its plugins may be missing: see `RecordedRegistry`.

    Files that the command line or `Experiment.with_` names are consented to, as all are with `trust_code`. Raises
    KitError.
    """
    registry = load_files(layers, folder, trust_code)
    return registry if layers.made_with is None else RecordedRegistry(registry.entries, layers.made_with)


def load_files(layers: Layers, folder: Path, trust_code: bool) -> Registry:
    paths = component_paths(layers, folder)
    files = list(paths.values())
    if not files:
        return Registry.installed()
    named_by_user = [path for key, path in paths.items() if layers.location(key) in (COMMAND_LINE, PYTHON)]
    try:
        return Registry.installed().with_files(Component, files, files if trust_code else named_by_user)
    except KitError as error:
        location = layers.location(("components",))
        raise KitError(*(Fault(fault.message, fault.key, location) for fault in error.faults)) from error


def component_paths(layers: Layers, folder: Path) -> dict[Key, Path]:
    """The component files that loading an experiment executes, by key; `folder` is the experiment file's."""
    files = layers.values.get("components")
    indexed = enumerate(files) if isinstance(files, list) else ()
    keys = {("components", index): file for index, file in indexed if isinstance(file, str)}
    return {key: folder / expand_path(file, "components", layers.location(key)) for key, file in keys.items()}
