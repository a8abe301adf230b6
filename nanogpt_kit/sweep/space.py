"""The whole of [sweep.space]: read, checked at every endpoint, and turned into experiments."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from nanogpt_kit.core.errors import Fault, KitError, nearest
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.options import leaves
from nanogpt_kit.sweep.parameters import (
    EXAMPLE,
    KINDS,
    MANY,
    WORDS,
    Condition,
    Conditional,
    Config,
    Parameter,
    Setting,
    branch_value,
    label,
    parameter,
    same,
    shown,
    told,
)

if TYPE_CHECKING:
    import optuna

MOST_CORNERS = 1000  # combinations of endpoints that are looked at; one takes 1 to 10 ms, mostly for its model
MOST_FAULTS = 8  # of combinations that are told
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
        """Raises KitError with all that is wrong in the table itself; `check` looks at what it makes."""
        assert base.sweep is not None, "there is a [sweep] table"
        self.base, self.options = base, base.sweep
        self.layers, self.folder = base.layers.copy(), base.folder
        self.layers.values = base.resolved()  # so that every slot says what is in it, defaults too
        for at, _ in leaves(self.layers.values):
            self.layers.places.setdefault(at, base.layers.place(at))
        self.parameters: list[Parameter] = []
        self.settings: list[Setting] = []
        self.faults: list[Fault] = []
        self._read(base.sweep.space, ("sweep", "space"), "", ())
        if not self.faults:
            self._check_keys()
            self._check_conditions()
            self._check_twice()
        if self.faults:
            raise KitError(*self.faults)
        self.parameters = [self._named(one) for one in self._in_order()]
        self.marks = {one.name: self._marks(one) for one in self.parameters}
        for one in self.conditionals:
            if self._reaching(one) is None:
                self._fault(one, f"is never tried: nowhere in the space {one.where}")
        if self.faults:
            raise KitError(*self.faults)

    @property
    def conditionals(self) -> list[Parameter | Setting]:
        return [*self.parameters, *self.settings]

    def _read(self, table: dict[str, Any], at: tuple[str, ...], prefix: str, when: tuple[Condition, ...]) -> None:
        for name, value in table.items():
            key, inner = f"{prefix}{name}", (*at, name)
            place = self.base.layers.place(inner)
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
        guess = nearest(last, KINDS).split(".")[0] if "did you mean" in nearest(last, KINDS) else ""
        message = f"should be {EXAMPLE}, got {shown(value)}{guess}; a value that never varies belongs in the experiment"
        self.faults.append(Fault(message, f"sweep.space.{key}", place))

    def _check_keys(self) -> None:
        for one, (key, reason) in itertools.product(self.conditionals, KEPT.items()):
            if within(one.key, key):
                self._fault(one, f"cannot be varied: {reason}")

    def _check_conditions(self) -> None:
        for one in self.conditionals:
            for condition in one.when:
                named = [other for other in self.parameters if other.key == condition.key and other is not one]
                if not named:
                    keys = {other.key for other in self.parameters if other is not one}
                    message = f"is tried where {condition.key} has some value, and that is no key of the space"
                    self._fault(one, f"{message}{nearest(condition.key, keys)}")
                    continue
                for value in condition.values:
                    if not any(other.values is not None and other.holds(value) for other in named):
                        message = f"is tried where {condition.key} is {told(value)}, and it never is: {named[0]}"
                        self._fault(one, message)

    def _check_twice(self) -> None:
        for one, other in itertools.combinations(self.conditionals, 2):
            keys = {one.key.removesuffix(".use"), other.key.removesuffix(".use")}  # a slot's name is short for its use
            if len(keys) == 1 and not one.excludes(other):
                self._fault(other, f"is there twice, also at {one.place}, with no condition that keeps the two apart")

    def _fault(self, one: Conditional, message: str) -> None:
        self.faults.append(Fault(message, f"sweep.space.{one.key}", one.place))

    def _in_order(self) -> list[Parameter]:
        """In that of the file, but for conditions: what they are about is chosen first."""
        ordered: list[Parameter] = []
        waiting = list(self.parameters)
        while waiting:
            open_keys = {one.key for one in waiting}
            ready = [one for one in waiting if not any(condition.key in open_keys for condition in one.when)]
            if not ready:
                circle = ", ".join(one.key for one in waiting)
                place = waiting[0].place
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
        places = {one.key: one.place for one in self.parameters if one.is_active(config)}
        values = [(key, value, places.get(key, "")) for key, value in config.items()]
        values += [(one.key, one.value, one.place) for one in self.settings if one.is_active(config)]
        values += [(key, value, "sweep") for key, value in also]
        layers.set([(tuple(key.split(".")), value, place) for key, value, place in values])
        return Experiment.of(layers, self.folder)

    def points(self) -> list[Config] | None:
        """All of them; None where they are more than can be tried."""
        if any(one.values is None for one in self.parameters):
            return None
        found = list(itertools.islice(self._walk(lambda one: one.values or ()), MANY + 1))
        return found if len(found) <= MANY else None

    def _walk(self, values: Any, config: Config | None = None, at: int = 0) -> Iterator[Config]:
        """Every combination of `values(parameter)` of the active parameters."""
        config = config or {}
        if at == len(self.parameters):
            yield config
            return
        one = self.parameters[at]
        if not one.is_active(config):
            yield from self._walk(values, config, at + 1)
            return
        for value in values(one):
            yield from self._walk(values, {**config, one.key: value}, at + 1)

    # What is checked before anything starts

    def check(self) -> Config:
        """The values of trial 0, the experiment as written.

        Raises KitError where it is outside of the space, or where endpoints do not go together.
        """
        faults: dict[tuple[str, str], tuple[Fault, Config]] = {}
        models: set[str] = set()
        for config in self.corners():
            for fault in self._faults(config, models):
                faults.setdefault((fault.key, fault.message), (fault, config))
        if faults:
            first = [self._told_with(fault, config) for fault, config in list(faults.values())[:MOST_FAULTS]]
            more = [Fault(f"and {len(faults) - len(first)} more")] if len(faults) > len(first) else []
            raise KitError(*first, *more)
        return self.written()

    def _faults(self, config: Config, models: set[str]) -> tuple[Fault, ...]:
        """Of these values together; `models` are those that were put together before."""
        try:
            experiment = self.experiment(config)
            if repr(experiment.model) not in models:
                models.add(repr(experiment.model))
                self.check_experiment(experiment)
        except KitError as error:
            return error.faults
        return ()

    def _told_with(self, fault: Fault, config: Config) -> Fault:
        """With those of the values, besides its own, that it takes."""
        for key in config:
            less = {other: value for other, value in config.items() if other != key}
            if (fault.key, fault.message) in [(one.key, one.message) for one in self._faults(less, set())]:
                config = less
        values = ", ".join(f"{key} = {told(value)}" for key, value in config.items() if not within(fault.key, key))
        message = fault.message + (f" (with {values})" if values else "")
        return Fault(message, fault.key, fault.place or self.parameters[0].place)

    def check_experiment(self, experiment: Experiment) -> None:
        """Whether its parts go together, and with this machine."""
        from nanogpt_kit.nn.blank import check_parts

        check_parts(experiment)

    def corners(self) -> Iterator[Config]:
        """Combinations of endpoints: all, or where they are too many, each at the least with all others low or high."""
        every = list(itertools.islice(self._walk(lambda one: self.marks[one.name]), MOST_CORNERS + 1))
        if len(every) <= MOST_CORNERS:
            yield from every
            return
        for one in self.conditionals:
            for value, side in itertools.product(one.endpoints, (0, -1)):
                reached = self._reaching(one, value, side)
                assert reached is not None, "what is never tried was refused before"
                yield reached
        dice = random.Random(0)  # the same corners every time
        for _ in range(MOST_CORNERS):
            yield next(self._walk(lambda one: [dice.choice(self.marks[one.name])]))

    def _marks(self, one: Parameter) -> list[Any]:
        """The endpoints, and between them the values that conditions are about."""
        asked = [condition for other in self.conditionals for condition in other.when if condition.key == one.key]
        marks = list(one.endpoints)
        for value in itertools.chain(*(condition.values for condition in asked)):
            if one.holds(value) and not any(same(value, mark) for mark in marks):
                marks.append(value)
        return marks

    def _reaching(self, wanted: Parameter | Setting, value: Any = None, side: int = 0) -> Config | None:
        """Where `wanted` is active and has `value`, and what does not decide on that has its endpoint at `side`."""
        deciding = {condition.key for condition in wanted.when}
        for one in reversed(self.parameters):  # those that others depend on come first
            if one.key in deciding:
                deciding |= {condition.key for condition in one.when}

        def choose(one: Parameter) -> list[Any]:
            if one is wanted:
                return [value]
            if one.key not in deciding:
                return [one.endpoints[side]]
            own = [condition for condition in wanted.when if condition.key == one.key]
            return [mark for mark in self.marks[one.name] if all(condition.holds({one.key: mark}) for condition in own)]

        return next((config for config in self._walk(choose) if wanted.is_active(config)), None)

    def written(self) -> Config:
        """The experiment's own values. Raises KitError where the space does not hold them."""
        config: Config = {}
        faults: list[Fault] = []
        resolved = self.base.resolved()
        for one in self.parameters:
            if not one.is_active(config):
                continue
            value = lookup(resolved, one.key)
            if one.kind == "int" and isinstance(value, float) and value.is_integer():
                value = int(value)  # of an option that takes any number
            if one.kind != "choice":
                found = [value] if one.holds(value) else []
            else:
                found = [choice for choice in one.choices if self._is_base(one, choice)]
            if len(found) > 1:
                message = (
                    f"{' and '.join(map(shown, found))} are one and the same, since options that a choice does not "
                )
                message += "name stay as the experiment has them; name them"
                faults.append(Fault(message, f"sweep.space.{one.key}", one.place))
            if found:
                config[one.key] = found[0]
                continue
            key = f"{one.key}.use" if isinstance(value, dict) and "use" in value else one.key
            if value is None:
                message = f"trial 0 is the experiment as written, which does not set it; set it to one of {one.allowed}"
            else:
                message = f"the experiment says {key} = {told(lookup(resolved, key))}, which {one.allowed} does not "
                message += "hold; trial 0 is the experiment as written: add its value, or change it"
            faults.append(Fault(message, f"sweep.space.{one.key}", one.place))
        for setting in self.settings:
            if setting.is_active(config) and not self._is_base(setting, setting.value):
                message = f"is {told(setting.value)} where {setting.where}, as in the experiment, and the experiment "
                message += "says otherwise; trial 0 is the experiment as written: make the two the same"
                faults.append(Fault(message, f"sweep.space.{setting.key}", setting.place))
        if faults:
            raise KitError(*faults)
        return config

    def _is_base(self, one: Conditional, value: Any) -> bool:
        layers = self.layers.copy()
        try:
            layers.set([(tuple(one.key.split(".")), value, one.place)])
            return Experiment.of(layers, self.folder) == self.base
        except KitError:  # told when the corners are looked at
            return False

    def described(self) -> dict[str, str]:
        """What a study is about: {"optimizer.lr": "float [0.0001, 0.01], log"}."""
        fixed = {f"{one.key}, where {one.where}": f"= {told(one.value)}" for one in self.settings}
        return {one.name: str(one) for one in self.parameters} | fixed


def within(key: str, other: str) -> bool:
    """Whether `key` is `other`, or a part of it."""
    return f"{key}.".startswith(f"{other}.")


def lookup(values: Any, key: str) -> Any:
    """The value at a dotted key of nested tables and lists; None where there is none."""
    for part in key.split("."):
        if isinstance(values, dict):
            values = values.get(part)
        elif isinstance(values, list) and part.isdecimal() and int(part) < len(values):
            values = values[int(part)]
        else:
            return None
    return values
