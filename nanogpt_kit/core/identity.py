"""The identity of a configuration: a hash that is equal for runs whose results can differ by their seed alone."""

from __future__ import annotations

from typing import Any

from nanogpt_kit.core.errors import Key
from nanogpt_kit.core.kinds import Callback
from nanogpt_kit.core.options import Component, Options, components_in, digest, to_toml_values
from nanogpt_kit.core.registry import Registry

# Options that name, explain, place or follow a run and decide no result of it. Of components the code is hashed.
DECIDE_NOTHING: tuple[Key, ...] = (
    ("name",),
    ("note",),
    ("components",),
    ("sweep",),
    ("ablate",),
    ("train", "seed"),
    ("train", "threads"),
    ("sample", "num_samples"),
)


class QualifiedNames(Registry):
    """Writes components as distribution/name: the short name depends on what else is installed."""

    def name_of(self, component: type[Any]) -> str:
        return self.entry_of(component).qualified


def configuration_hash(experiment: Options, registry: Registry) -> str:
    """A hash of all options of an experiment except those that decide nothing, and of the code of its components.

    Callbacks that only report decide nothing, either.
    """
    values = to_toml_values(experiment, QualifiedNames(registry.entries))
    for *sections, option in DECIDE_NOTHING:
        table = values
        for section in sections:
            table = table[str(section)]
        table.pop(str(option), None)
    parts = list(components_in(experiment))
    of_callbacks = [part for (section, *_), part in parts if section == "callback"]
    values["callback"] = [
        options for options, part in zip(values["callback"], of_callbacks, strict=True) if not only_reports(part)
    ]
    return digest([values, [component_identity(part, registry) for _, part in parts if not only_reports(part)]])


def only_reports(part: Component) -> bool:
    """Whether it is a tracker, which changes no result of a run."""
    return isinstance(part, Callback) and part.is_tracker


def component_identity(part: Component, registry: Registry) -> str:
    """The version of a component, or the content of its file; see `Entry.identity`."""
    return registry.entry_of(type(part)).identity
