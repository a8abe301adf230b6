"""The whole of [sweep.space]: read, checked for contradictions, and turned into experiments."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from nanogpt_kit.core.errors import Fault, KitError, did_you_mean
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.layers import Layers
from nanogpt_kit.core.options import leaves
from nanogpt_kit.sweep.space.parameters import (
    MAX_POINTS,
    Condition,
    Config,
    Parameter,
    Setting,
    format_json,
    format_value,
    optuna_choice,
)
from nanogpt_kit.sweep.space.table import PARAMETER_KEYS, PARAMETER_KINDS, parse_branch_name, read_parameter

if TYPE_CHECKING:
    import optuna

EXAMPLE_TABLE = "{ float = [1e-4, 1e-2], log = true }, { int = [2, 8] } or { choice = [...] }"
EXAMPLE_LINE = '"optimizer.lr" = { float = [1e-4, 1e-2], log = true }'
CANNOT_VARY = {  # keys, and why trials cannot differ in them
    "name": "all trials have the experiment's name",
    "extends": "an experiment's files are read before the space",
    "components": "an experiment's files are read before the space; use the choices of a component instead",
    "sweep": "a sweep cannot vary itself",
    "train.seed": "each trial runs with train.seed, train.seed + 1, ...; set sweep.seeds",
}


class Space:
    """The parameters of a sweep, those that others depend on first, and the experiment that they vary."""

    def __init__(self, base: Experiment) -> None:
        """Raises KitError with all that is wrong in the table; `endpoints` checks the experiments that it makes."""
        assert base.sweep is not None, "there is a [sweep] table"
        self.base, self.options = base, base.sweep
        self.layers, self.folder = layers_with_defaults(base), base.folder
        self.parameters: list[Parameter] = []
        self.settings: list[Setting] = []
        self.faults: list[Fault] = []
        self._read(base.sweep.space, ("sweep", "space"), "", ())
        if not base.sweep.space:
            message = f"is empty, so there is nothing to vary; add a key with its values, such as {EXAMPLE_LINE}"
            self.faults.append(Fault(message, "sweep.space", base.layers.location(("sweep", "space"))))
        if not self.faults:
            self._check_keys()
            self._check_conditions()
            self._check_duplicates()
        if self.faults:
            raise KitError(*self.faults)
        self.parameters = [self._with_name(parameter) for parameter in self._in_dependency_order()]

    @property
    def entries(self) -> list[Parameter | Setting]:
        return [*self.parameters, *self.settings]

    @property
    def trial_tokens(self) -> int:
        """Tokens of a trial that is not pruned, as the experiment is written."""
        return self.base.total_tokens

    # Reading it

    def _read(self, table: dict[str, Any], path: tuple[str, ...], prefix: str, when: tuple[Condition, ...]) -> None:
        """Reads a table, or the table of a branch; `when` are the conditions of the branch."""
        for name, value in table.items():
            key, value_path = f"{prefix}{name}", (*path, name)
            location = self.base.layers.location(value_path)
            if not isinstance(value, dict) or not value:
                self._read_setting(key, value, when, location)
            elif any(word in value for word in PARAMETER_KEYS):
                try:
                    parameter = read_parameter(key, value, when, location)
                except KitError as error:
                    self.faults.extend(error.faults)
                    continue
                self.parameters.append(parameter)
                if isinstance(value.get("choice"), dict):
                    self._read_branches(parameter, value["choice"], (*value_path, "choice"))
            else:
                self._read(value, value_path, f"{key}.", when)

    def _read_branches(self, parameter: Parameter, branches: dict[str, Any], path: tuple[str, ...]) -> None:
        for name, branch in branches.items():
            if isinstance(branch, dict):
                when = (*parameter.when, Condition(parameter.key, (parse_branch_name(name),)))
                self._read(branch, (*path, name), "", when)
            else:
                message = f"the branch {name!r} should be a table of keys, perhaps empty, got {format_json(branch)}"
                self.faults.append(parameter.fault(message))

    def _read_setting(self, key: str, value: Any, when: tuple[Condition, ...], location: str) -> None:
        if when:
            self.settings.append(Setting(key, when, location, value))
            return
        guess, mark, _ = did_you_mean(key.rpartition(".")[2], PARAMETER_KINDS).partition("?")
        hint = guess + mark if mark else "."
        message = f"should be {EXAMPLE_TABLE}, got {format_json(value)}{hint} To fix a value, set the option itself"
        self.faults.append(Fault(message, f"sweep.space.{key}", location))

    # Checking it

    def _check_keys(self) -> None:
        for entry, (key, reason) in itertools.product(self.entries, CANNOT_VARY.items()):
            if is_key_within(entry.key, key):
                self.faults.append(entry.fault(f"cannot be varied: {reason}"))

    def _check_conditions(self) -> None:
        for entry in self.entries:
            for condition in entry.when:
                others = [other for other in self.parameters if other.key == condition.key and other is not entry]
                if not others:
                    keys = {other.key for other in self.parameters if other.key != entry.key}
                    message = f"depends on {condition.key}, which is not another key of [sweep.space]"
                    self.faults.append(entry.fault(message + (did_you_mean(condition.key, keys) if keys else "")))
                    continue
                for value in condition.values:
                    if not any(other.values is not None and other.contains(value) for other in others):
                        message = f"depends on {condition.key} being {format_value(value)}, which it never is: "
                        self.faults.append(entry.fault(message + str(others[0])))

    def _check_duplicates(self) -> None:
        for entry, other in itertools.combinations(self.entries, 2):
            keys = {
                entry.key.removesuffix(".use"),
                other.key.removesuffix(".use"),
            }  # a slot is an abbreviation of its use
            if len(keys) == 1 and not entry.excludes(other):
                self.faults.append(other.fault(f"is defined twice, also at {entry.location}, and both can be active"))

    def _in_dependency_order(self) -> list[Parameter]:
        """The order of the file, except that a condition's key comes before what depends on it."""
        ordered: list[Parameter] = []
        waiting = list(self.parameters)
        while waiting:
            keys = {parameter.key for parameter in waiting}
            ready = [one for one in waiting if not any(condition.key in keys for condition in one.when)]
            if not ready:
                circle = ", ".join(parameter.key for parameter in waiting)
                location = waiting[0].location
                raise KitError(Fault(f"these keys depend on each other in a circle: {circle}", "sweep.space", location))
            ordered.append(ready[0])
            waiting.remove(ready[0])
        return ordered

    def _with_name(self, parameter: Parameter) -> Parameter:
        name = parameter.key
        if sum(other.key == parameter.key for other in self.parameters) > 1:
            name += "@" + ",".join(f"{on.key}={'|'.join(map(format_value, on.values))}" for on in parameter.when)
        return dataclasses.replace(parameter, name=name)

    # Using it

    def suggest(self, trial: optuna.Trial) -> Config:
        """The values of a trial, chosen by its study's sampler if they have not been yet."""
        config: Config = {}
        for parameter in self.parameters:
            if parameter.is_active(config):
                config[parameter.key] = parameter.suggest(trial)
        return config

    def from_optuna(self, params: dict[str, Any]) -> Config:
        """The values that Optuna stores as `params`."""
        config: Config = {}
        for parameter in self.parameters:
            if parameter.is_active(config) and parameter.name in params:
                config[parameter.key] = parameter.from_optuna(params[parameter.name])
        return config

    def to_optuna(self, config: Config) -> dict[str, Any]:
        """The inverse of `from_optuna`."""
        active = [parameter for parameter in self.parameters if parameter.is_active(config) and parameter.key in config]
        return {
            parameter.name: optuna_choice(config[parameter.key])
            if parameter.kind == "choice"
            else config[parameter.key]
            for parameter in active
        }

    def experiment(self, config: Config, extra: Sequence[tuple[str, Any]] = ()) -> Experiment:
        """The base with these values, their settings, and the `extra` keys. Raises KitError if that is not valid."""
        layers = self.layers.copy()
        locations = {parameter.key: parameter.location for parameter in self.parameters if parameter.is_active(config)}
        values = [(key, value, locations.get(key, "")) for key, value in config.items()]
        values += [(entry.key, entry.value, entry.location) for entry in self.settings if entry.is_active(config)]
        values += [(key, value, "sweep") for key, value in extra]
        layers.set([(tuple(key.split(".")), value, location) for key, value, location in values])
        return Experiment.of(layers, self.folder)

    def points(self) -> list[Config] | None:
        """All points of the space; None if they cannot be listed."""
        if any(parameter.values is None for parameter in self.parameters):
            return None
        points = list(itertools.islice(self.combinations(lambda parameter: parameter.values or ()), MAX_POINTS + 1))
        return points if len(points) <= MAX_POINTS else None

    def combinations(
        self, values: Callable[[Parameter], Sequence[Any]], config: Config | None = None, index: int = 0
    ) -> Iterator[Config]:
        """Every combination of `values(parameter)` of the active parameters, from parameter `index` on."""
        config = config or {}
        if index == len(self.parameters):
            yield config
            return
        parameter = self.parameters[index]
        if not parameter.is_active(config):
            yield from self.combinations(values, config, index + 1)
            return
        for value in values(parameter):
            yield from self.combinations(values, {**config, parameter.key: value}, index + 1)

    def describe(self) -> dict[str, str]:
        """The parameters as text by name, as a study stores them: {"optimizer.lr": "float [0.0001, 0.01], log"}."""
        settings = {f"{one.key}, where {one.conditions_text}": f"= {format_value(one.value)}" for one in self.settings}
        return {parameter.name: str(parameter) for parameter in self.parameters} | settings


def layers_with_defaults(experiment: Experiment) -> Layers:
    """A copy of its layers in which every slot names its component, so that a change may set an option of any."""
    layers = experiment.layers.copy()
    layers.values = experiment.resolved()
    for key, _ in leaves(layers.values):
        layers.locations.setdefault(key, experiment.layers.location(key))
    return layers


def is_key_within(key: str, table: str) -> bool:
    """Whether `key` is `table` or below it."""
    return f"{key}.".startswith(f"{table}.")
