"""One line of [sweep.space]: the values that an option may have, and the conditions under which it is varied.

"key" = { float = [1e-4, 1e-2], log = true }      or step = 1e-4 instead of log
"key" = { int = [2, 8] }                          or log = true, or step = 2
"key" = { choice = ["adamw", "muon"] }            any values, also whole tables of options
"key".choice.adamw = { "other.key" = ... }        a choice with keys that are varied, or set, only with it
"key" = { ..., when = { "other.key" = "adamw" } } varied only if another key has this value, or one of a list
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from nanogpt_kit.core.errors import Fault

if TYPE_CHECKING:
    import optuna

MAX_POINTS = 10_000  # of a range or a space that is listed
Config = dict[str, Any]  # dotted keys, and the values that a trial has for them


@dataclass(frozen=True)
class Condition:
    """A condition: another key has one of some values."""

    key: str
    values: tuple[Any, ...]

    def holds(self, config: Mapping[str, Any]) -> bool:
        return self.key in config and any(is_same_value(config[self.key], value) for value in self.values)

    def excludes(self, other: Condition) -> bool:
        """Whether the two never hold together."""
        return self.key == other.key and not any(is_same_value(a, b) for a in self.values for b in other.values)


@dataclass(frozen=True)
class SpaceEntry:
    """A key of the space, and the conditions that must all hold for it to matter."""

    key: str
    when: tuple[Condition, ...]
    location: str  # file:line

    def is_active(self, config: Mapping[str, Any]) -> bool:
        return all(condition.holds(config) for condition in self.when)

    def excludes(self, other: SpaceEntry) -> bool:
        """Whether the two are never active together."""
        return any(mine.excludes(theirs) for mine in self.when for theirs in other.when)

    @property
    def conditions_text(self) -> str:
        """ "optimizer.use is adamw or muon"."""
        return " and ".join(f"{on.key} is {' or '.join(map(format_value, on.values))}" for on in self.when)

    def fault(self, message: str) -> Fault:
        return Fault(message, f"sweep.space.{self.key}", self.location)


@dataclass(frozen=True)
class Setting(SpaceEntry):
    """A key that has a single value under its conditions."""

    value: Any

    @property
    def endpoints(self) -> tuple[Any, ...]:
        return (self.value,)


@dataclass(frozen=True)
class Parameter(SpaceEntry):
    """A key and its possible values: a range from `low` to `high`, or one of `choices`."""

    kind: str  # float, int or choice
    low: float = 0
    high: float = 0
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] = ()
    name: str = ""  # for Optuna: the key, with its conditions where several branches have ranges for it

    @property
    def endpoints(self) -> tuple[Any, ...]:
        return self.choices if self.kind == "choice" else (self.low, self.high)

    @property
    def step_count(self) -> int:
        """Steps from `low` to `high`."""
        span, step = self.high - self.low, self.step or 1
        return int(span // step) if self.kind == "int" else round(span / step)

    def after_steps(self, steps: int) -> Any:
        """The value after `steps` steps, in decimals, as Optuna counts: 0.1 and two steps of 0.1 are exactly 0.3."""
        if self.kind == "int":
            return int(self.low) + steps * int(self.step or 1)
        return float(Decimal(str(self.low)) + steps * Decimal(str(self.step)))

    @property
    def values(self) -> Sequence[Any] | None:
        """All values in order; None if they cannot be listed."""
        if self.kind == "choice":
            return self.choices
        if self.kind == "int":
            return range(int(self.low), int(self.high) + 1, int(self.step or 1))
        if self.step is None or self.step_count >= MAX_POINTS:
            return None
        return [self.after_steps(steps) for steps in range(self.step_count + 1)]

    def contains(self, value: Any) -> bool:
        if self.kind == "choice":
            return any(is_same_value(value, choice) for choice in self.choices)
        is_number = isinstance(value, int if self.kind == "int" else int | float) and not isinstance(value, bool)
        if not is_number or not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / self.step if self.step else 0.0
        return bool(abs(steps - round(steps)) < 1e-8)

    def at_fraction(self, fraction: float) -> Any:
        """The value at a fraction, at least 0 and below 1, of the range; every value takes an equal part of it."""
        if self.kind == "choice":
            return self.choices[int(fraction * len(self.choices))]
        if self.log:
            half = 0.5 if self.kind == "int" else 0.0  # a whole number takes all that rounds to it
            low, high = math.log(self.low - half), math.log(self.high + half)
            value = math.exp(low + fraction * (high - low))
            value = round(value) if self.kind == "int" else value
        elif self.kind == "float" and self.step is None:
            value = self.low + fraction * (self.high - self.low)
        else:
            value = self.after_steps(min(self.step_count, int(fraction * (self.step_count + 1))))
        return max(self.low, min(self.high, value))  # the last digit of a logarithm may leave the range

    def suggest(self, trial: optuna.Trial) -> Any:
        if self.kind == "choice":
            return self.from_optuna(trial.suggest_categorical(self.name, list(map(optuna_choice, self.choices))))
        if self.kind == "int":
            return trial.suggest_int(self.name, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return self.from_optuna(trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log))

    def distribution(self) -> optuna.distributions.BaseDistribution:
        from optuna import distributions

        if self.kind == "choice":
            return distributions.CategoricalDistribution(list(map(optuna_choice, self.choices)))
        if self.kind == "int":
            return distributions.IntDistribution(int(self.low), int(self.high), self.log, int(self.step or 1))
        return distributions.FloatDistribution(self.low, self.high, self.log, self.step)

    def from_optuna(self, stored: Any) -> Any:
        """The value that Optuna stores as `stored`."""
        if self.kind == "choice":
            return next(choice for choice in self.choices if optuna_choice(choice) == stored)
        if self.kind == "float" and self.step:
            return self.after_steps(round((stored - self.low) / self.step))
        return stored

    def __str__(self) -> str:
        """As in TOML: "float [0.0001, 0.01], log, where optimizer.use is adamw"."""
        return self.values_text + (f", where {self.conditions_text}" if self.when else "")

    @property
    def values_text(self) -> str:
        if self.kind == "choice":
            return f"choice {format_json(list(self.choices))}"
        text = f"{self.kind} [{self.low}, {self.high}]" + ", log" * self.log
        return text + (f", step {self.step}" if self.step else "")


def is_same_value(one: object, other: object) -> bool:
    """Equal, and both or neither a boolean: Python's 1 equals True."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def optuna_choice(choice: Any) -> Any:
    """A choice as Optuna can store it: scalars as they are, the rest as JSON."""
    return choice if isinstance(choice, bool | int | float | str) else format_json(choice)


def format_value(value: Any) -> str:
    """A string as it is, anything else as JSON."""
    return value if isinstance(value, str) else format_json(value)


def format_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)  # of TOML's types JSON lacks dates
