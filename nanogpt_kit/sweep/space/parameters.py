"""One line of [sweep.space]: the values that an option may take, and when it is tried at all.

"key" = { float = [1e-4, 1e-2], log = true }      or step = 1e-4 instead of log
"key" = { int = [2, 8] }                          or log = true, or step = 2
"key" = { choice = ["adamw", "muon"] }            any values, whole tables of options too
"key".choice.adamw = { "other.key" = ... }        a choice with what is tried, or set, beside it
"key" = { ..., when = { "other.key" = "adamw" } } tried only where another has this value, or one of a list
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from nanogpt_kit.core.errors import Fault, KitError, did_you_mean

if TYPE_CHECKING:
    import optuna

KINDS = ("float", "int", "choice")
WORDS = (*KINDS, "log", "step", "when")  # of a parameter's table
LARGEST = 2**53  # beyond it whole numbers run together, since Optuna keeps all numbers as floats
MANY = 10_000  # points of a space, from which on they are not counted any more
MOST_CHOICES = 1000  # of a key
EXAMPLE = "{ float = [1e-4, 1e-2], log = true }, { int = [2, 8] } or { choice = [...] }"
LINE = '"optimizer.lr" = { float = [1e-4, 1e-2], log = true }'  # of a space
Config = dict[str, Any]  # dotted keys and the values that a trial has for them


@dataclass(frozen=True)
class Condition:
    """That another key has one of some values."""

    key: str
    values: tuple[Any, ...]

    def holds(self, config: Mapping[str, Any]) -> bool:
        return self.key in config and any(same(config[self.key], value) for value in self.values)

    def excludes(self, other: Condition) -> bool:
        return self.key == other.key and not any(same(a, b) for a in self.values for b in other.values)


@dataclass(frozen=True)
class Conditional:
    """A key of the space, and the conditions that all must hold for it to matter."""

    key: str
    when: tuple[Condition, ...]
    location: str  # file:line

    def is_active(self, config: Mapping[str, Any]) -> bool:
        return all(condition.holds(config) for condition in self.when)

    def excludes(self, other: Conditional) -> bool:
        """Whether the two are never active together."""
        return any(one.excludes(another) for one in self.when for another in other.when)

    @property
    def where(self) -> str:
        """Its conditions, told: "optimizer.use is adamw or muon"."""
        return " and ".join(f"{one.key} is {' or '.join(map(told, one.values))}" for one in self.when)

    def fault(self, message: str) -> Fault:
        return Fault(message, f"sweep.space.{self.key}", self.location)


@dataclass(frozen=True)
class Setting(Conditional):
    """The one value that a key has under its conditions."""

    value: Any

    @property
    def endpoints(self) -> tuple[Any, ...]:
        return (self.value,)


@dataclass(frozen=True)
class Parameter(Conditional):
    """A key and what it may be: a range from `low` to `high`, or one of `choices`."""

    kind: str  # of KINDS
    low: float = 0
    high: float = 0
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] = ()
    name: str = ""  # to Optuna: the key, and in branches the condition too, since their ranges differ

    @property
    def endpoints(self) -> tuple[Any, ...]:
        return self.choices if self.kind == "choice" else (self.low, self.high)

    @property
    def last(self) -> int:
        """How many steps lead from `low` to `high`."""
        span, step = self.high - self.low, self.step or 1
        return int(span // step) if self.kind == "int" else round(span / step)

    def after(self, steps: int) -> Any:
        """In decimals, as Optuna counts: 0.1 and two steps of 0.1 are 0.3, and not a little more."""
        if self.kind == "int":
            return int(self.low) + steps * int(self.step or 1)
        return float(Decimal(str(self.low)) + steps * Decimal(str(self.step)))

    @property
    def values(self) -> Sequence[Any] | None:
        """All of them, in order; None where they are too many to count."""
        if self.kind == "choice":
            return self.choices
        if self.kind == "int":
            return range(int(self.low), int(self.high) + 1, int(self.step or 1))
        if self.step is None:
            return None
        return [self.after(steps) for steps in range(self.last + 1)] if self.last < MANY else None

    def holds(self, value: Any) -> bool:
        """Whether `value` is one of its values."""
        if self.kind == "choice":
            return any(same(value, choice) for choice in self.choices)
        is_number = isinstance(value, int if self.kind == "int" else int | float) and not isinstance(value, bool)
        if not is_number or not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / self.step if self.step else 0.0
        return bool(abs(steps - round(steps)) < 1e-8)

    def at(self, share: float) -> Any:
        """The value at a share, from 0 to 1 and below 1, of the range; every value has as much of it."""
        if self.kind == "choice":
            return self.choices[int(share * len(self.choices))]
        if self.log:
            half = 0.5 if self.kind == "int" else 0.0  # each whole number has what rounds to it
            low, high = math.log(self.low - half), math.log(self.high + half)
            value = math.exp(low + share * (high - low))
            value = round(value) if self.kind == "int" else value
        elif self.kind == "float" and self.step is None:
            value = self.low + share * (self.high - self.low)
        else:
            value = self.after(min(self.last, int(share * (self.last + 1))))
        return max(self.low, min(self.high, value))  # the last digit of a logarithm may leave the range

    def suggest(self, trial: optuna.Trial) -> Any:
        if self.kind == "choice":
            return self.value(trial.suggest_categorical(self.name, [label(choice) for choice in self.choices]))
        if self.kind == "int":
            return trial.suggest_int(self.name, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return self.value(trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log))

    def distribution(self) -> optuna.distributions.BaseDistribution:
        from optuna import distributions

        if self.kind == "choice":
            return distributions.CategoricalDistribution([label(choice) for choice in self.choices])
        if self.kind == "int":
            return distributions.IntDistribution(int(self.low), int(self.high), self.log, int(self.step or 1))
        return distributions.FloatDistribution(self.low, self.high, self.log, self.step)

    def value(self, told: Any) -> Any:
        """The one of its values that Optuna calls so."""
        if self.kind == "choice":
            return next(choice for choice in self.choices if label(choice) == told)
        return self.after(round((told - self.low) / self.step)) if self.kind == "float" and self.step else told

    def __str__(self) -> str:
        """As in TOML: "float [0.0001, 0.01], log, where optimizer.use is adamw"."""
        return self.allowed + (f", where {self.where}" if self.when else "")

    @property
    def allowed(self) -> str:
        if self.kind == "choice":
            return f"choice {shown(list(self.choices))}"
        words = f"{self.kind} [{self.low}, {self.high}]" + ", log" * self.log
        return words + (f", step {self.step}" if self.step else "")


def same(one: object, other: object) -> bool:
    """Equal, and both or neither a boolean: to Python 1 is True."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def label(choice: Any) -> Any:
    """A choice as Optuna can store it: scalars are themselves."""
    return choice if isinstance(choice, bool | int | float | str) else shown(choice)


def told(value: Any) -> str:
    return value if isinstance(value, str) else shown(value)


def shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)  # of TOML's values, JSON has no dates


def parameter(key: str, table: Mapping[str, Any], when: tuple[Condition, ...], place: str) -> Parameter:
    """From its table. Raises KitError with what is wrong in it."""

    def wrong(message: str) -> KitError:
        return KitError(Fault(message, f"sweep.space.{key}", place))

    unknown = [name for name in table if name not in WORDS]
    if unknown:
        raise wrong(f"unknown {unknown[0]!r}{did_you_mean(unknown[0], WORDS)}")
    kinds = [kind for kind in KINDS if kind in table]
    if len(kinds) != 1:
        raise wrong(f"should have one of float, int and choice, has {' and '.join(kinds) or 'none'}")
    kind = kinds[0]
    when = (*when, *conditions(table.get("when", {}), wrong))
    log, step = table.get("log", False), table.get("step")
    if not isinstance(log, bool):
        raise wrong(f"log should be true or false, got {shown(log)}")
    if kind == "choice":
        if "log" in table or "step" in table:
            raise wrong("a choice has no log and no step")
        return Parameter(key, when, place, kind, choices=choices_of(table["choice"], wrong))
    bounds, a_number = table[kind], "whole numbers" if kind == "int" else "numbers"
    if not (isinstance(bounds, list) and len(bounds) == 2 and all(is_number(bound, kind) for bound in bounds)):
        raise wrong(f"{kind} should be two {a_number}, [low, high], got {shown(bounds)}")
    low, high = bounds if kind == "int" else map(float, bounds)
    if low > high:
        raise wrong(f"the bounds are reversed: {kind} = [{bounds[0]}, {bounds[1]}]; write [{bounds[1]}, {bounds[0]}]")
    if low == high:
        raise wrong(f"both bounds are {low}, so there is nothing to try; leave the key out and set the option itself")
    if log and low <= 0:
        raise wrong(f"log wants bounds above 0, and the lower one is {low}; raise it, or leave out log")
    if step is not None:
        if log:
            raise wrong("takes log or step, not both")
        stepped = Parameter(key, when, place, kind, low, high, step=step)
        if not is_number(step, kind) or step <= 0 or stepped.last < 1:
            raise wrong(f"step should be above 0 and at most high - low ({high - low:g}), got {shown(step)}")
        if stepped.after(stepped.last) != high:
            near = stepped.after(stepped.last)
            raise wrong(f"from {low} in steps of {step} one does not come to {high}; {near} is near")
    return Parameter(key, when, place, kind, low, high, log, step)


def is_number(value: Any, kind: str) -> bool:
    allowed = int if kind == "int" else int | float
    return isinstance(value, allowed) and not isinstance(value, bool) and abs(value) < LARGEST


def choices_of(values: Any, wrong: Any) -> tuple[Any, ...]:
    """From a list, or from a table of branches: their names, read as on the command line."""
    if isinstance(values, dict):
        values = [branch_value(name) for name in values]
    if not isinstance(values, list) or len(values) < 2:
        raise wrong(f"choice should be a list of at least two values, or a table of branches, got {shown(values)}")
    if len(values) > MOST_CHOICES:  # each is checked as an experiment
        raise wrong(
            f"choice should be at most {MOST_CHOICES:,} values, got {len(values):,}; int = [low, high] is a range"
        )
    labels: set[Any] = set()
    for one in map(label, values):
        if one in labels:  # Optuna takes 1 for true
            raise wrong(f"{shown(one)} is among the choices twice")
        labels.add(one)
    return tuple(values)


def branch_value(name: str) -> Any:
    """`choice.4` is a number and `choice.true` a boolean; what is no TOML value is a word."""
    from nanogpt_kit.core.layers import parse_override

    try:
        return parse_override(f"branch={name}")[1]
    except KitError:  # half a list, or half a quotation
        return name


def conditions(table: Any, wrong: Any) -> Iterator[Condition]:
    if not isinstance(table, dict):
        raise wrong(f'when should be a table such as {{ "optimizer.use" = "muon" }}, got {shown(table)}')
    for key, value in flat(table):
        if value == []:
            raise wrong(f"when names no value of {key}, so it is never tried")
        yield Condition(key, tuple(value) if isinstance(value, list) else (value,))


def flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys, whether they were quoted or written as tables in tables."""
    for name, value in table.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            yield from flat(value, f"{key}.")
        else:
            yield key, value
