"""Reads and checks the table of one parameter of [sweep.space]."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from nanogpt_kit.core.errors import Fault, KitError, did_you_mean
from nanogpt_kit.core.overrides import parse_override
from nanogpt_kit.sweep.space.parameters import Condition, Parameter, format_json, optuna_choice

PARAMETER_KINDS = ("float", "int", "choice")
PARAMETER_KEYS = (*PARAMETER_KINDS, "log", "step", "when")
MAX_INTEGER = 2**53  # Optuna stores all numbers as floats, which beyond this skip whole numbers
MAX_CHOICES = 1000  # of a key
ErrorFactory = Callable[[str], KitError]  # makes the error of this parameter from a message


def read_parameter(key: str, table: Mapping[str, Any], when: tuple[Condition, ...], location: str) -> Parameter:
    """The parameter of a table; `when` are the conditions of its branch. Raises KitError for a mistake in the table."""

    def wrong(message: str) -> KitError:
        return KitError(Fault(message, f"sweep.space.{key}", location))

    unknown = [name for name in table if name not in PARAMETER_KEYS]
    if unknown:
        raise wrong(f"unknown {unknown[0]!r}{did_you_mean(unknown[0], PARAMETER_KEYS)}")
    kinds = [kind for kind in PARAMETER_KINDS if kind in table]
    if len(kinds) != 1:
        raise wrong(f"should have one of float, int and choice, has {' and '.join(kinds) or 'none'}")
    kind = kinds[0]
    when = (*when, *read_conditions(table.get("when", {}), wrong))
    log, step = table.get("log", False), table.get("step")
    if not isinstance(log, bool):
        raise wrong(f"log should be true or false, got {format_json(log)}")
    if kind == "choice":
        if "log" in table or "step" in table:
            raise wrong("choice takes neither log nor step")
        return Parameter(key, when, location, kind, choices=read_choices(table["choice"], wrong))
    low, high = read_bounds(table[kind], kind, wrong)
    if log and low <= 0:
        raise wrong(f"log requires bounds above 0, and the lower one is {low}; raise it, or leave out log")
    parameter = Parameter(key, when, location, kind, low, high, log, step)
    if step is not None:
        if log:
            raise wrong("takes log or step, not both")
        check_step(parameter, wrong)
    return parameter


def read_bounds(bounds: Any, kind: str, wrong: ErrorFactory) -> tuple[float, float]:
    if not (isinstance(bounds, list) and len(bounds) == 2 and all(is_number(bound, kind) for bound in bounds)):
        numbers = "whole numbers" if kind == "int" else "numbers"
        raise wrong(f"{kind} should be two {numbers}, [low, high], got {format_json(bounds)}")
    low, high = bounds if kind == "int" else map(float, bounds)
    if low > high:
        raise wrong(f"the bounds are reversed: {kind} = [{bounds[0]}, {bounds[1]}]; write [{bounds[1]}, {bounds[0]}]")
    if low == high:
        raise wrong(f"both bounds are {low}, so there is nothing to vary; remove the key and set the option itself")
    return low, high


def check_step(parameter: Parameter, wrong: ErrorFactory) -> None:
    """Raises KitError unless a whole number of steps leads from the lower to the upper bound."""
    low, high, step = parameter.low, parameter.high, parameter.step
    if not is_number(step, parameter.kind) or not step or step <= 0 or parameter.step_count < 1:
        raise wrong(f"step should be above 0 and at most high - low ({high - low:g}), got {format_json(step)}")
    nearest = parameter.after_steps(parameter.step_count)
    if nearest != high:
        raise wrong(f"steps of {step} from {low} never reach {high}; use {nearest}")


def is_number(value: Any, kind: str) -> bool:
    allowed = int if kind == "int" else int | float
    return isinstance(value, allowed) and not isinstance(value, bool) and abs(value) < MAX_INTEGER


def read_choices(values: Any, wrong: ErrorFactory) -> tuple[Any, ...]:
    """The choices of a list, or the names of a table of branches, parsed as on the command line."""
    if isinstance(values, dict):
        values = [parse_branch_name(name) for name in values]
    if not isinstance(values, list) or len(values) < 2:
        raise wrong(
            f"choice should be a list of at least two values, or a table of branches, got {format_json(values)}"
        )
    if len(values) > MAX_CHOICES:  # each is checked as an experiment
        raise wrong(f"choice should have at most {MAX_CHOICES:,} values, got {len(values):,}; for a range use int")
    known: set[Any] = set()
    for choice in map(optuna_choice, values):
        if choice in known:  # to Optuna 1 and true are the same
            raise wrong(f"the choice {format_json(choice)} is given twice")
        known.add(choice)
    return tuple(values)


def parse_branch_name(name: str) -> Any:
    """`choice.4` is a number and `choice.true` a boolean; what is not a TOML value is a string."""
    try:
        return parse_override(f"branch={name}")[1]
    except KitError:  # half a list, or half a quotation
        return name


def read_conditions(table: Any, wrong: ErrorFactory) -> Iterator[Condition]:
    if not isinstance(table, dict):
        raise wrong(f'when should be a table such as {{ "optimizer.use" = "muon" }}, got {format_json(table)}')
    for key, value in flatten_table(table):
        if value == []:
            raise wrong(f"when names no value of {key}, so this is never varied")
        yield Condition(key, tuple(value) if isinstance(value, list) else (value,))


def flatten_table(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values, whether the keys were quoted or written as nested tables."""
    for name, value in table.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            yield from flatten_table(value, f"{key}.")
        else:
            yield key, value
