"""The branches of a search space: the values of the choices that decide which other keys are varied.

Two optimizers, each with its own range of learning rates, are two branches. What is best in each, and whether each was
given as many trials, is what a comparison of the two needs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial

from nanogpt_kit.sweep.space.parameters import Config, Parameter, format_value, optuna_choice
from nanogpt_kit.sweep.space.space import Space

MAX_BRANCHES = 100  # beyond which a table of branches shows nothing, and each would have a trial or two


@dataclass(frozen=True)
class Branch:
    """Values of choices, by the names that Optuna has for them and as it stores them."""

    params: Mapping[str, Any]

    @property
    def label(self) -> str:
        """Such as "optimizer.use = muon"."""
        return ", ".join(f"{name.split('@')[0]} = {format_value(value)}" for name, value in self.params.items())

    def has(self, params: Mapping[str, Any]) -> bool:
        """Whether a trial with these parameters is in this branch."""
        return all(name in params and params[name] == value for name, value in self.params.items())


def find_branches(space: Space) -> list[Branch]:
    """Every branch of a space, in the order of its choices; none where no choice makes branches, or too many.

    A choice makes branches if other keys depend on it. Where there is no such choice, a single one whose values are not
    all numbers does; with allocate = "equal" all choices do, in every combination.
    """
    found = list(itertools.islice(iterate_branches(space), MAX_BRANCHES + 1))
    return found if len(found) <= MAX_BRANCHES else []


def iterate_branches(space: Space) -> Iterator[Branch]:
    choices = branching_choices(space)
    for config in combinations(choices):
        yield Branch({one.name: optuna_choice(config[one.key]) for one in choices if one.is_active(config)})


def branching_choices(space: Space) -> list[Parameter]:
    choices: list[Parameter] = []
    for parameter in space.parameters:  # a choice that depends on a range divides trials, but not branches
        if parameter.kind == "choice" and {on.key for on in parameter.when} <= {choice.key for choice in choices}:
            choices.append(parameter)
    decisive = {condition.key for entry in space.entries for condition in entry.when}
    if found := [parameter for parameter in choices if parameter.key in decisive]:
        return found
    if space.options.allocate == "equal":
        return choices
    return choices if len(choices) == 1 and not all(map(is_number, choices[0].choices)) else []


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def combinations(choices: Sequence[Parameter], config: Config | None = None) -> Iterator[Config]:
    """The values of `choices` that go together; a choice comes after those that it depends on."""
    config = config or {}
    if not choices:
        if config:
            yield config
        return
    first, *others = choices
    for value in first.choices if first.is_active(config) else ():
        yield from combinations(others, {**config, first.key: value})
    if not first.is_active(config):
        yield from combinations(others, config)


def branch_index(branches: Sequence[Branch], params: Mapping[str, Any]) -> int | None:
    """Which of `branches` a trial with these parameters is in; None if in none."""
    return next((index for index, branch in enumerate(branches) if branch.has(params)), None)


def fixed_params(trial: FrozenTrial) -> dict[str, Any]:
    """The values that a trial was queued with, which Optuna keeps when the trial has begun."""
    return dict(trial.system_attrs.get("fixed_params", {}))


def known_params(trial: FrozenTrial) -> dict[str, Any]:
    """The values that a trial was queued with, and those that it has been given since."""
    return {**fixed_params(trial), **trial.params}
