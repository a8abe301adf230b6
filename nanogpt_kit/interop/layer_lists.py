"""Lists in the slots of a model's layers, for formats in which all layers have the same parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Model
from nanogpt_kit.core.layered_differences import with_shortest_lists
from nanogpt_kit.core.layered_slots import layered_slots


def model_options(experiment: Experiment) -> dict[str, Any]:
    """The options of [model] as TOML values; in place of a list of equal components that component."""
    options: dict[str, Any] = with_shortest_lists(experiment).resolved()["model"]
    return options


def values_at(options: Any, key: str, before: str = "") -> Iterator[tuple[str, Any]]:
    """(key, value) of the option at a dotted key; of a list, in which each layer's is an element, of all elements."""
    name, _, rest = key.partition(".")
    found = options.get(name) if isinstance(options, Mapping) else None
    if not rest:
        yield f"{before}{name}", found
    elif isinstance(found, list):
        for index, element in enumerate(found):
            yield from values_at(element, rest, f"{before}{name}.{index}.")
    else:
        yield from values_at(found, rest, f"{before}{name}.")


def different_parts(options: Mapping[str, Any], model: Model) -> dict[str, int]:
    """The layered slots whose components differ in more than the kernel of their attention, with their number."""
    slots = [name for name in layered_slots(type(model)) if name != "attention"]
    return {name: len(options[name]) for name in slots if isinstance(options[name], list)}
