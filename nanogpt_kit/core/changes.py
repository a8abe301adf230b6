"""Changes of an experiment from Python: texts as on the command line, and Python values by dotted key."""

from __future__ import annotations

import numbers
import os
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from nanogpt_kit.core.errors import Fault, KitError, dotted
from nanogpt_kit.core.options import Component, Options
from nanogpt_kit.core.overrides import parse_key, parse_override
from nanogpt_kit.core.registry import Registry

PYTHON = "with_"  # the location of a value that `Experiment.with_` was given

Change = tuple[tuple[str, ...], Any, str]  # key, value, location: what `Layers.set` takes


def parse_changes(changes: Sequence[str | Mapping[str, Any]], registry: Registry) -> list[Change]:
    """The changes in order. Raises KitError with every fault of their form."""
    parsed: list[Change] = []
    faults: list[Fault] = []
    for change in changes:
        if not isinstance(change, str | Mapping):
            faults.append(Fault(f"expected texts such as 'optimizer.lr=3e-4' or dicts, got {change!r}", "", PYTHON))
            continue
        items = [change] if isinstance(change, str) else list(change.items())
        for item in items:
            try:
                parsed.append((*parse_change(item, registry), PYTHON))
            except KitError as error:
                faults += [Fault(fault.message, fault.key, PYTHON) for fault in error.faults]
    if faults:
        raise KitError(*faults)
    return parsed


def parse_change(item: str | tuple[str, Any], registry: Registry) -> tuple[tuple[str, ...], Any]:
    """("optimizer", "lr"), 3e-4 from "optimizer.lr=3e-4" or from ("optimizer.lr", 3e-4)."""
    if isinstance(item, str):
        return parse_override(item)
    text, value = item
    key = parse_key(text) if isinstance(text, str) and "\n" not in text else ()
    if not key:
        raise KitError(f"expected a dotted key such as 'optimizer.lr', got {text!r}")
    try:
        return key, as_layer_value(value, registry)
    except KitError as error:
        raise KitError(*(Fault(fault.message, dotted(key)) for fault in error.faults)) from None


def as_layer_value(value: Any, registry: Registry) -> Any:
    """A Python value as a layer has it. None stays: it is the value of an option that is left out."""
    if isinstance(value, Component):
        return {"use": registry.name_of(type(value)), **options_of(value, registry)}
    if isinstance(value, Options):
        return options_of(value, registry)
    if isinstance(value, Mapping):
        return {str(key): as_layer_value(item, registry) for key, item in value.items()}
    if isinstance(value, list | tuple | Iterator):
        return [as_layer_value(item, registry) for item in value]
    if isinstance(value, Set):
        raise KitError(f"expected a list, since a set has no order, got {value!r}")
    if hasattr(value, "tolist"):  # of numpy, with or without axes
        return as_layer_value(value.tolist(), registry)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, bool | str):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else value


def options_of(options: Options, registry: Registry) -> dict[str, Any]:
    return {name: as_layer_value(value, registry) for name, value in options}
