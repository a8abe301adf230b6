"""Slots of one component or a list, in two experiments: a list of one is the component alone, lists of other lengths
differ as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from nanogpt_kit.core.layered_slots import layered_slots, listed, listed_slot, shortest
from nanogpt_kit.core.option_schema import default_value
from nanogpt_kit.core.options import Component, Options, to_toml_values
from nanogpt_kit.core.registry import Registry

Chosen = TypeVar("Chosen", bound=Options)


def differing_lists(
    mine: Options, theirs: Options, registry: Registry, other_registry: Registry
) -> dict[str, tuple[Any, Any]]:
    """The slots of two tables of one class that have lists of different lengths; a component is one of one."""
    if type(mine) is not type(theirs):
        return {}
    fields = type(mine).model_fields.items()
    slots = [name for name, field in fields if listed_slot(field)]
    pairs = {name: (getattr(mine, name), getattr(theirs, name)) for name in slots}
    return {
        name: (short_value(one, registry), short_value(other, other_registry))
        for name, (one, other) in pairs.items()
        if len(listed(one)) != len(listed(other))
    }


def short_value(parts: Component | tuple[Component, ...] | None, registry: Registry) -> Any:
    """A component, or a list of them, as TOML values without the options that have their defaults."""
    if parts is None:  # no mixer of the model uses it
        return None
    if isinstance(parts, tuple):
        return [short_value(part, registry) for part in parts]
    values = to_toml_values(parts, registry)
    fields = type(parts).model_fields  # without the options of a component that is not installed
    options = {
        name: value for name, value in values.items() if name not in fields or value != default_value(type(parts), name)
    }
    name = registry.name_of(type(parts))
    return {"use": name, **options} if options else name


def without_lists_of_one(experiment: Chosen) -> Chosen:
    """The experiment with the component alone in place of each list of one: of its schedules, and in its model."""
    schedule = part_alone(getattr(experiment, "schedule"))  # noqa: B009
    return with_slots(experiment, part_alone).model_copy(update={"schedule": schedule})


def part_alone(parts: Any) -> Any:
    return parts[0] if isinstance(parts, tuple) and len(parts) == 1 else parts


def with_shortest_lists(experiment: Chosen) -> Chosen:
    """The experiment with each layered slot of its model in the shortest form that builds the same blocks."""
    n_layer = getattr(getattr(experiment, "model"), "n_layer", None)  # noqa: B009
    return with_slots(experiment, lambda parts: shortest(parts, n_layer or 2 * len(listed(parts))))


def with_slots(experiment: Chosen, changed: Callable[[Any], Any]) -> Chosen:
    """A copy with another value in each layered slot of its model."""
    model = getattr(experiment, "model")  # noqa: B009
    slots = {name: changed(getattr(model, name)) for name in layered_slots(type(model))}
    return experiment.model_copy(update={"model": model.model_copy(update=slots)})
