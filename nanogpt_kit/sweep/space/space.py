"""The whole of [sweep.space]: read, and turned into experiments."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from nanogpt_kit.core.errors import Fault, KitError, did_you_mean
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.options import leaves
from nanogpt_kit.sweep.space.parameters import (
    EXAMPLE,
    KINDS,
    LINE,
    MANY,
    WORDS,
    Condition,
    Config,
    Parameter,
    Setting,
    branch_value,
    label,
    parameter,
    shown,
    told,
)

if TYPE_CHECKING:
    import optuna

KEPT = {  # what trials cannot differ in
    "name": "all trials have the experiment's name",
    "extends": "an experiment's files are read before the space",
    "components": "an experiment's files are read before the space; let the choices name what is in them",
    "sweep": "a sweep cannot vary itself",
    "train.seed": "each trial runs with train.seed, train.seed + 1, ..., as many as sweep.seeds says",
}


class Space:
    """The parameters of a sweep, those that others depend on first, and the experiment that they vary."""

    def __init__(self, base: Experiment) -> None:
        """Raises KitError with all that is wrong in the table itself; `checking` looks at what it makes."""
        assert base.sweep is not None, "there is a [sweep] table"
        self.base, self.options = base, base.sweep
        self.layers, self.folder = base.layers.copy(), base.folder
        self.layers.values = base.resolved()  # so that every slot says what is in it, defaults too
        for at, _ in leaves(self.layers.values):
            self.layers.locations.setdefault(at, base.layers.location(at))
        self.parameters: list[Parameter] = []
        self.settings: list[Setting] = []
        self.faults: list[Fault] = []
        self._read(base.sweep.space, ("sweep", "space"), "", ())
        if not base.sweep.space:
            message = f"is empty, so there is nothing to try; give it a key with its values, such as {LINE}"
            self.faults.append(Fault(message, "sweep.space", base.layers.location(("sweep", "space"))))
        if not self.faults:
            self._check_keys()
            self._check_conditions()
            self._check_twice()
        if self.faults:
            raise KitError(*self.faults)
        self.parameters = [self._named(one) for one in self._in_order()]

    @property
    def conditionals(self) -> list[Parameter | Setting]:
        return [*self.parameters, *self.settings]

    def _read(self, table: dict[str, Any], at: tuple[str, ...], prefix: str, when: tuple[Condition, ...]) -> None:
        for name, value in table.items():
            key, inner = f"{prefix}{name}", (*at, name)
            place = self.base.layers.location(inner)
            if not isinstance(value, dict) or not value:
                self._setting(key, value, when, place)
            elif any(word in value for word in WORDS):
                try:
                    one = parameter(key, value, when, place)
                except KitError as error:
                    self.faults.extend(error.faults)
                    continue
                self.parameters.append(one)
                branches = value.get("choice")
                for word, branch in branches.items() if isinstance(branches, dict) else ():
                    if isinstance(branch, dict):
                        own = (*one.when, Condition(key, (branch_value(word),)))
                        self._read(branch, (*inner, "choice", word), "", own)
                    else:
                        message = f"the branch {word!r} should be a table of keys, perhaps empty, got {shown(branch)}"
                        self.faults.append(Fault(message, f"sweep.space.{key}", place))
            else:
                self._read(value, inner, f"{key}.", when)

    def _setting(self, key: str, value: Any, when: tuple[Condition, ...], place: str) -> None:
        if when:
            self.settings.append(Setting(key, when, place, value))
            return
        last = key.rpartition(".")[2]
        guess = did_you_mean(last, KINDS).split(".")[0] if "did you mean" in did_you_mean(last, KINDS) else ""
        message = f"should be {EXAMPLE}, got {shown(value)}{guess}; a value that never varies belongs in the experiment"
        self.faults.append(Fault(message, f"sweep.space.{key}", place))

    def _check_keys(self) -> None:
        for one, (key, reason) in itertools.product(self.conditionals, KEPT.items()):
            if within(one.key, key):
                self.faults.append(one.fault(f"cannot be varied: {reason}"))

    def _check_conditions(self) -> None:
        for one in self.conditionals:
            for condition in one.when:
                named = [other for other in self.parameters if other.key == condition.key and other is not one]
                if not named:
                    keys = {other.key for other in self.parameters if other.key != one.key}
                    message = f"is tried where {condition.key} has some value, and that is no key of the space; "
                    message += "conditions name other keys of [sweep.space]"
                    tail = did_you_mean(condition.key, keys) if keys else ", and there are none"
                    self.faults.append(one.fault(message + tail))
                    continue
                for value in condition.values:
                    if not any(other.values is not None and other.holds(value) for other in named):
                        message = f"is tried where {condition.key} is {told(value)}, and it never is: {named[0]}"
                        self.faults.append(one.fault(message))

    def _check_twice(self) -> None:
        for one, other in itertools.combinations(self.conditionals, 2):
            keys = {one.key.removesuffix(".use"), other.key.removesuffix(".use")}  # a slot's name is short for its use
            if len(keys) == 1 and not one.excludes(other):
                self.faults.append(
                    other.fault(f"is there twice, also at {one.location}, with no condition that keeps the two apart")
                )

    def _in_order(self) -> list[Parameter]:
        """In that of the file, but for conditions: what they are about is chosen first."""
        ordered: list[Parameter] = []
        waiting = list(self.parameters)
        while waiting:
            open_keys = {one.key for one in waiting}
            ready = [one for one in waiting if not any(condition.key in open_keys for condition in one.when)]
            if not ready:
                circle = ", ".join(one.key for one in waiting)
                place = waiting[0].location
                raise KitError(Fault(f"these wait for each other in a circle: {circle}", "sweep.space", place))
            ordered.append(ready[0])
            waiting.remove(ready[0])
        return ordered

    def _named(self, one: Parameter) -> Parameter:
        name = one.key
        if sum(other.key == one.key for other in self.parameters) > 1:
            name += "@" + ",".join(f"{on.key}={'|'.join(map(told, on.values))}" for on in one.when)
        return dataclasses.replace(one, name=name)

    # What it makes

    def suggest(self, trial: optuna.Trial) -> Config:
        config: Config = {}
        for one in self.parameters:
            if one.is_active(config):
                config[one.key] = one.suggest(trial)
        return config

    def config(self, params: dict[str, Any]) -> Config:
        """From what Optuna stored of a trial."""
        config: Config = {}
        for one in self.parameters:
            if one.is_active(config) and one.name in params:
                config[one.key] = one.value(params[one.name])
        return config

    def params(self, config: Config) -> dict[str, Any]:
        """As Optuna stores it: the opposite of `config`."""
        active = [one for one in self.parameters if one.is_active(config) and one.key in config]
        return {one.name: label(config[one.key]) if one.kind == "choice" else config[one.key] for one in active}

    def experiment(self, config: Config, also: Sequence[tuple[str, Any]] = ()) -> Experiment:
        """The base with these values and what belongs to them. Raises KitError."""
        layers = self.layers.copy()
        places = {one.key: one.location for one in self.parameters if one.is_active(config)}
        values = [(key, value, places.get(key, "")) for key, value in config.items()]
        values += [(one.key, one.value, one.location) for one in self.settings if one.is_active(config)]
        values += [(key, value, "sweep") for key, value in also]
        layers.set([(tuple(key.split(".")), value, place) for key, value, place in values])
        return Experiment.of(layers, self.folder)

    def points(self) -> list[Config] | None:
        """All of them; None where they are more than can be tried."""
        if any(one.values is None for one in self.parameters):
            return None
        found = list(itertools.islice(self.walk(lambda one: one.values or ()), MANY + 1))
        return found if len(found) <= MANY else None

    def walk(self, values: Any, config: Config | None = None, at: int = 0) -> Iterator[Config]:
        """Every combination of `values(parameter)` of the active parameters."""
        config = config or {}
        if at == len(self.parameters):
            yield config
            return
        one = self.parameters[at]
        if not one.is_active(config):
            yield from self.walk(values, config, at + 1)
            return
        for value in values(one):
            yield from self.walk(values, {**config, one.key: value}, at + 1)

    def described(self) -> dict[str, str]:
        """What a study is about: {"optimizer.lr": "float [0.0001, 0.01], log"}."""
        fixed = {f"{one.key}, where {one.where}": f"= {told(one.value)}" for one in self.settings}
        return {one.name: str(one) for one in self.parameters} | fixed


def within(key: str, other: str) -> bool:
    """Whether `key` is `other`, or a part of it."""
    return f"{key}.".startswith(f"{other}.")
