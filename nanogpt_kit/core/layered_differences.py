"""Layered slots of two experiments: lists of other lengths differ as a whole, in the form that a user would write."""

from __future__ import annotations

from typing import Any, TypeVar

from nanogpt_kit.core.layered_slots import layered_slots, listed, shortest
from nanogpt_kit.core.option_schema import default_value
from nanogpt_kit.core.options import Component, Options, to_toml_values
from nanogpt_kit.core.registry import Registry

Chosen = TypeVar("Chosen", bound=Options)


def differing_lists(
    mine: Options, theirs: Options, registry: Registry, other_registry: Registry
) -> dict[str, tuple[Any, Any]]:
    """The layered slots of two models of one class that are lists of different lengths, or one of them no list."""
    if type(mine) is not type(theirs):
        return {}
    pairs = {name: (getattr(mine, name), getattr(theirs, name)) for name in layered_slots(type(mine))}
    return {
        name: (short_value(one, registry), short_value(other, other_registry))
        for name, (one, other) in pairs.items()
        if (type(one) is not type(other) and (isinstance(one, tuple) or isinstance(other, tuple)))
        or len(listed(one)) != len(listed(other))
    }


def short_value(parts: Component | tuple[Component, ...], registry: Registry) -> Any:
    """A component, or a list of them, as TOML values without the options that have their defaults."""
    if isinstance(parts, tuple):
        return [short_value(part, registry) for part in parts]
    values = to_toml_values(parts, registry)
    options = {name: value for name, value in values.items() if value != default_value(type(parts), name)}
    name = registry.name_of(type(parts))
    return {"use": name, **options} if options else name


def with_shortest_lists(experiment: Chosen) -> Chosen:
    """The experiment with each layered slot of its model in the shortest form that builds the same blocks."""
    model = getattr(experiment, "model")  # noqa: B009
    slots = {name: shortest(getattr(model, name)) for name in layered_slots(type(model))}
    return experiment.model_copy(update={"model": model.model_copy(update=slots)})
