"""Whether a format of another program can express the options of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nanogpt_kit.core.kinds.network import Attention, Model, Multipliers

TRAINING_ONLY = "loss."  # options and weights of the loss, which no other program needs

ALWAYS_EXPRESSIBLE = {"document_mask": (False,)}  # values that say that there is nothing to express

Expressible = Mapping[str, tuple[Any, ...] | None]  # options of [model] by dotted key: possible values; None: any


def inexpressible(
    program: str, allowed: Expressible, model: Model, experiment: Mapping[str, Any], multipliers: Multipliers
) -> Iterator[str]:
    """One sentence for each part of a model that `program` cannot express; `experiment` has all resolved values."""
    options, init = experiment["model"], experiment["init"]["use"]
    uses = allowed.get("use", ())
    if uses is not None and options["use"] not in uses:
        expected = f"expected {alternatives(uses)}" if uses else 'what its format allows names no model by "use"'
        yield f"{program} cannot express model.use = {options['use']!r}; {expected}"
        return  # its options are those of another model
    yield from inexpressible_options(program, allowed, options)
    yield from inexpressible_attentions(program, model, options)
    for name, value in vars(multipliers).items():
        if value != 1:
            yield f"{program} cannot express init.use = {init!r}, which multiplies {name} by {value:g}"


def inexpressible_options(program: str, allowed: Expressible, options: Mapping[str, Any]) -> Iterator[str]:
    """Options with other values than those that are allowed, and those with different values for the layers."""
    found: dict[str, list[Any]] = {}
    refused: tuple[str | int, ...] = ("",)  # the key of a component, whose options are not reported as well
    for path, value in leaves_of(options):
        key = ".".join(part for part in path if isinstance(part, str))
        if key.startswith(TRAINING_ONLY) or (key.startswith("attention.") and key != "attention.window"):
            continue  # attentions are compared by the function that they compute, whatever their kernels
        if key == "attention.window" and isinstance(value, int) and value >= options["block_size"]:
            continue  # the whole context, such as at the end of a schedule
        if path[: len(refused)] == refused:
            continue
        found.setdefault(key, []).append(value)
        values = allowed.get(key, ALWAYS_EXPRESSIBLE.get(key, (None,)))
        if values is not None and value not in values:
            written = ".".join(map(str, path))
            yield f"{program} cannot express model.{written} = {value!r}; expected {alternatives(values)}"
            refused = path[:-1] if path[-1] == "use" else refused
    for key, several in found.items():
        if allowed.get(key, ()) is None and len(set(several)) > 1:
            slot, _, option = key.partition(".")
            shown = " and ".join(map(repr, dict.fromkeys(several)))
            yield f"{one_for_all(program, slot, options)} with {option} = {shown}"
    if isinstance(options.get("position"), list) and len(options["position"]) > 1:  # each has separate weights
        yield one_for_all(program, "position", options)


def one_for_all(program: str, slot: str, options: Mapping[str, Any]) -> str:
    return f"{program} has one {slot} for all layers, and model.{slot} is a list of {len(options[slot])}"


def inexpressible_attentions(program: str, model: Model, options: Mapping[str, Any]) -> Iterator[str]:
    """Attentions that do not compute plain softmax attention."""
    tables = options.get("attention")
    found: Attention | tuple[Attention, ...] = getattr(model, "attention", ())
    parts = found if isinstance(found, tuple) else (found,)
    names = [table["use"] for table in (tables if isinstance(tables, list) else [tables]) if table]
    for name in dict.fromkeys(name for part, name in zip(parts, names, strict=False) if not is_softmax(part)):
        reason = f'model.attention = {name!r} does not declare computed_function = "softmax"'
        yield f"{program} has softmax attention, and {reason}"


def is_softmax(part: Attention) -> bool:
    return part.computed_function == "softmax"


def leaves_of(values: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """The options in nested tables and lists of components, by their keys."""
    if not isinstance(values, Mapping | list):
        yield at, values
        return
    for key, value in values.items() if isinstance(values, Mapping) else enumerate(values):
        yield from leaves_of(value, (*at, key))


def alternatives(values: tuple[Any, ...]) -> str:
    return " or ".join("unset" if value is None else repr(value) for value in values)
