"""The whole of [sweep.space]: read, checked at every endpoint, and turned into experiments."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from nanogpt_kit.core.errors import Fault, KitError, nearest
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.sweep.parameters import (
    EXAMPLE,
    KINDS,
    MANY,
    Condition,
    Conditional,
    Config,
    Parameter,
    Setting,
    branch_value,
    label,
    parameter,
    told,
)

if TYPE_CHECKING:
    import optuna

MOST_CORNERS = 3000  # combinations of endpoints that are looked at; one takes about a millisecond
MOST_FAULTS = 8  # of combinations that are told


class Space:
    """The parameters of a sweep, those that others depend on first, and the experiment that they vary."""

    def __init__(self, base: Experiment) -> None:
        """Raises KitError with all that is wrong in the table itself; `check` looks at what it makes."""
        assert base.sweep is not None, "there is a [sweep] table"
        self.base, self.options = base, base.sweep
        self.layers, self.folder = base.layers.copy(), base.folder
        self.layers.values = base.resolved()  # so that every slot says what is in it, defaults too
        self.parameters: list[Parameter] = []
        self.settings: list[Setting] = []
        self.faults: list[Fault] = []
        self._read(base.sweep.space, ("sweep", "space"), "", ())
        if not self.faults:
            self._check_conditions()
            self._check_twice()
        if self.faults:
            raise KitError(*self.faults)
        self.parameters = [self._named(one) for one in self._in_order()]

    def _read(self, table: dict[str, Any], at: tuple[str, ...], prefix: str, when: tuple[Condition, ...]) -> None:
        for name, value in table.items():
            key, inner = f"{prefix}{name}", (*at, name)
            place = self.base.layers.place(inner)
            if not isinstance(value, dict):
                self._setting(key, value, when, place)
            elif any(kind in value for kind in KINDS):
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
                        message = f"the branch {word!r} should be a table of keys, perhaps empty, got {branch!r}"
                        self.faults.append(Fault(message, f"sweep.space.{key}", place))
            else:
                self._read(value, inner, f"{key}.", when)

    def _setting(self, key: str, value: Any, when: tuple[Condition, ...], place: str) -> None:
        if when:
            self.settings.append(Setting(key, when, place, value))
            return
        last = key.rpartition(".")[2]
        guess = nearest(last, KINDS).split(".")[0] if "did you mean" in nearest(last, KINDS) else ""
        message = f"should be {EXAMPLE}, got {value!r}{guess}; a value that never varies belongs in the experiment"
        self.faults.append(Fault(message, f"sweep.space.{key}", place))

    def _check_conditions(self) -> None:
        ones: list[Conditional] = [*self.parameters, *self.settings]
        for one in ones:
            for condition in one.when:
                named = [other for other in self.parameters if other.key == condition.key and other is not one]
                if not named:
                    keys = {other.key for other in self.parameters if other is not one}
                    message = f"is tried where {condition.key} has some value, and that is no key of the space"
                    self._fault(one, f"{message}{nearest(condition.key, keys)}")
                    continue
                for value in condition.values:
                    if not any(other.holds(value) for other in named):
                        message = f"is tried where {condition.key} is {told(value)}, and it never is: {named[0]}"
                        self._fault(one, message)

    def _check_twice(self) -> None:
        ones: list[Conditional] = [*self.parameters, *self.settings]
        for one, other in itertools.combinations(ones, 2):
            if one.key == other.key and not one.excludes(other):
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
            name += "@" + ",".join("|".join(map(told, condition.values)) for condition in one.when)
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
                value = params[one.name]
                config[one.key] = one.choice(value) if one.kind == "choice" else value
        return config

    def params(self, config: Config) -> dict[str, Any]:
        """As Optuna stores it: the opposite of `config`."""
        active = [one for one in self.parameters if one.is_active(config) and one.key in config]
        return {one.name: label(config[one.key]) if one.kind == "choice" else config[one.key] for one in active}

    def experiment(self, config: Config, also: Sequence[tuple[str, Any]] = ()) -> Experiment:
        """The base with these values and what belongs to them. Raises KitError."""
        layers = self.layers.copy()
        values = [(key, value, self._place(key, config)) for key, value in config.items()]
        values += [(one.key, one.value, one.place) for one in self.settings if one.is_active(config)]
        values += [(key, value, "sweep") for key, value in also]
        layers.set([(tuple(key.split(".")), value, place) for key, value, place in values])
        return Experiment.of(layers, self.folder)

    def _place(self, key: str, config: Config) -> str:
        return next(one.place for one in self.parameters if one.key == key and one.is_active(config))

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
        first = self.written()
        faults: dict[tuple[str, str], Fault] = {}
        for config in self.corners():
            try:
                self.check_experiment(self.experiment(config))
            except KitError as error:
                values = ", ".join(f"{key} = {told(value)}" for key, value in config.items())
                for one in error.faults:
                    told_with = Fault(f"{one.message} (with {values})", one.key, one.place or self.parameters[0].place)
                    faults.setdefault((one.key, one.message), told_with)
        if faults:
            shown = list(faults.values())[:MOST_FAULTS]
            more = [Fault(f"and {len(faults) - len(shown)} more")] if len(faults) > len(shown) else []
            raise KitError(*shown, *more)
        return first

    def check_experiment(self, experiment: Experiment) -> None:
        """Whether its parts go together, and with this machine."""
        from nanogpt_kit.nn.blank import check_parts

        check_parts(experiment)

    def corners(self) -> Iterator[Config]:
        """Combinations of endpoints: all, or where they are too many, each at the least with all others low or high."""
        every = list(itertools.islice(self._walk(lambda one: one.endpoints), MOST_CORNERS + 1))
        if len(every) <= MOST_CORNERS:
            yield from every
            return
        for one in self.parameters:
            for value, side in itertools.product(one.endpoints, (0, -1)):
                yield self._reaching(one, value, lambda other, side=side: other.endpoints[side])
        dice = random.Random(0)  # the same corners every time
        for _ in range(MOST_CORNERS):
            yield next(self._walk(lambda one: [dice.choice(one.endpoints)]))

    def _reaching(self, wanted: Parameter, value: Any, else_: Any) -> Config:
        """A combination in which `wanted` is active and has `value`."""
        needed = {condition.key: condition.values[0] for condition in wanted.when}

        def choose(one: Parameter) -> list[Any]:
            if one is wanted:
                return [value]
            return [needed[one.key] if one.key in needed and one.holds(needed[one.key]) else else_(one)]

        return next(self._walk(choose))

    def written(self) -> Config:
        """The experiment's own values. Raises KitError where the space does not hold them."""
        config: Config = {}
        faults: list[Fault] = []
        resolved = self.base.resolved()
        for one in self.parameters:
            if not one.is_active(config):
                continue
            if one.kind == "choice":
                found = [choice for choice in one.choices if self._is_base(one, choice)]
                if found:
                    config[one.key] = found[0]
                    continue
            value = lookup(resolved, one.key)
            if one.kind != "choice" and one.holds(value):
                config[one.key] = value
                continue
            key = f"{one.key}.use" if isinstance(value, dict) and "use" in value else one.key
            words = "has no value there" if value is None else f"says {key} = {told(lookup(resolved, key))}"
            allowed = str(one).split(", where")[0]
            message = f"the experiment {words}, which {allowed} does not hold; trial 0 is the experiment as written: "
            faults.append(Fault(f"{message}add its value, or change it", f"sweep.space.{one.key}", one.place))
        if faults:
            raise KitError(*faults)
        for key, (now, then) in self.experiment(config).differences(self.base).items():
            if key != "components":
                place = next((one.place for one in self.settings if one.key == key), self.parameters[0].place)
                message = f"is {then!r} in the experiment and {now!r} in the branch that it is in; trial 0 is the"
                faults.append(Fault(f"{message} experiment as written: make the two the same", key, place))
        if faults:
            raise KitError(*faults)
        return config

    def _is_base(self, one: Parameter, choice: Any) -> bool:
        layers = self.layers.copy()
        try:
            layers.set([(tuple(one.key.split(".")), choice, one.place)])
            return Experiment.of(layers, self.folder) == self.base
        except KitError:  # told when the corners are looked at
            return False

    def described(self) -> dict[str, str]:
        """What a study is about: {"optimizer.lr": "float [0.0001, 0.01], log"}."""
        fixed = {
            f"{one.key}, where {' and '.join(f'{c.key} is {c.values}' for c in one.when)}": f"= {told(one.value)}"
            for one in self.settings
        }
        return {one.name: str(one) for one in self.parameters} | fixed


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
