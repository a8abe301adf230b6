"""What is looked at before a sweep starts anything: each endpoint of its space, on the machine that is to train it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.nn.uninitialized import check_parts
from nanogpt_kit.sweep.space.parameters import Conditional, Config, Parameter, Setting, same, shown, told
from nanogpt_kit.sweep.space.space import Space, within
from nanogpt_kit.train.context import context_of
from nanogpt_kit.train.metric_names import check_metrics, check_sweep_metric

MOST_CORNERS = 1000  # combinations of endpoints that are looked at; one takes 1 to 10 ms, mostly for its model
MOST_FAULTS = 8  # of combinations that are told


def check(space: Space, nproc: int = 1) -> Config:
    """The values of trial 0, the experiment as written, where all is well; a trial's run has `nproc` processes.

    Raises KitError where it is outside of the space, or where endpoints do not go together, or not with this machine.
    """
    corners, trying = Corners(space), Trying(space, nproc)
    never = [one for one in space.conditionals if corners.reaching(one) is None]
    if never:
        raise KitError(*(one.fault(f"is never tried: nowhere in the space {one.where}") for one in never))
    faults: dict[tuple[str, str], tuple[Fault, Config]] = {}
    for config in corners:
        for fault in trying.faults(config):
            faults.setdefault((fault.key, fault.message), (fault, config))
    if faults:
        first = [trying.traced(fault, config) for fault, config in list(faults.values())[:MOST_FAULTS]]
        more = [Fault(f"and {len(faults) - len(first)} more")] if len(faults) > len(first) else []
        raise KitError(*first, *more)
    return written(space)


class Corners:
    """Combinations of endpoints: all, or where they are too many, each at the least with all others low or high."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.marks = {one.name: self._marks(one) for one in space.parameters}

    def __iter__(self) -> Iterator[Config]:
        every = list(itertools.islice(self.space.walk(lambda one: self.marks[one.name]), MOST_CORNERS + 1))
        if len(every) <= MOST_CORNERS:
            yield from every
            return
        for one in self.space.conditionals:
            for value, side in itertools.product(one.endpoints, (0, -1)):
                reached = self.reaching(one, value, side)
                assert reached is not None, "what is never tried was refused before"
                yield reached
        dice = random.Random(0)  # the same corners every time
        for _ in range(MOST_CORNERS):
            yield next(self.space.walk(lambda one: [dice.choice(self.marks[one.name])]))

    def _marks(self, one: Parameter) -> list[Any]:
        """The endpoints, and between them the values that conditions are about."""
        asked = [on for other in self.space.conditionals for on in other.when if on.key == one.key]
        marks = list(one.endpoints)
        for value in itertools.chain(*(condition.values for condition in asked)):
            if one.holds(value) and not any(same(value, mark) for mark in marks):
                marks.append(value)
        return marks

    def reaching(self, wanted: Parameter | Setting, value: Any = None, side: int = 0) -> Config | None:
        """Where `wanted` is active and has `value`, and what does not decide on that has its endpoint at `side`."""
        deciding = {condition.key for condition in wanted.when}
        for one in reversed(self.space.parameters):  # those that others depend on come first
            if one.key in deciding:
                deciding |= {condition.key for condition in one.when}

        def choose(one: Parameter) -> list[Any]:
            if one is wanted:
                return [value]
            if one.key not in deciding:
                return [one.endpoints[side]]
            own = [condition for condition in wanted.when if condition.key == one.key]
            return [mark for mark in self.marks[one.name] if all(condition.holds({one.key: mark}) for condition in own)]

        return next((config for config in self.space.walk(choose) if wanted.is_active(config)), None)


class Trying:
    """A space's experiments, put together without weights or data."""

    def __init__(self, space: Space, nproc: int) -> None:
        self.space, self.nproc = space, nproc
        self.known: set[tuple[type, str, RunContext]] = set()  # parts that were found to be right, and where

    def faults(self, config: Config) -> tuple[Fault, ...]:
        """Of these values together, and with this machine."""
        try:
            experiment = self.space.experiment(config)
            ctx, _ = context_of(experiment, self.nproc)
            parts = {(type(part), repr(part), ctx) for _, part in experiment.parts()}
            if not parts <= self.known:
                experiment.check_context(ctx)
                check_parts(experiment)
                check_metrics(experiment)
                check_sweep_metric(experiment, self.space.options.metric)
                self.known |= parts
        except KitError as error:
            return error.faults
        return ()

    def traced(self, fault: Fault, config: Config) -> Fault:
        """With those of the values, besides its own, that it takes, and the place that it has with these alone."""
        place = fault.location
        for key in config:
            less = {other: value for other, value in config.items() if other != key}
            again = [one for one in self.faults(less) if (one.key, one.message) == (fault.key, fault.message)]
            if again:
                config, place = less, again[0].location or place  # a value whose condition is gone has none
        values = ", ".join(f"{key} = {told(value)}" for key, value in config.items() if not within(fault.key, key))
        message = fault.message + (f" (with {values})" if values else "")
        return Fault(message, fault.key, place or self.space.parameters[0].location)


def written(space: Space) -> Config:
    """The experiment's own values. Raises KitError where the space does not hold them."""
    config: Config = {}
    faults: list[Fault] = []
    resolved = space.base.resolved()
    for one in space.parameters:
        if not one.is_active(config):
            continue
        found = held(space, one, lookup(resolved, one.key))
        if len(found) > 1:
            message = f"{' and '.join(map(shown, found))} are one and the same, since options that a choice does not "
            faults.append(one.fault(message + "name stay as the experiment has them; name them"))
        if found:
            config[one.key] = found[0]
        else:
            faults.append(one.fault(outside(one, resolved)))
    for setting in space.settings:
        if setting.is_active(config) and not is_base(space, setting, setting.value):
            message = f"is {told(setting.value)} where {setting.where}, as in the experiment, and the experiment says "
            message += "otherwise; trial 0 is the experiment as written: make the two the same"
            faults.append(setting.fault(message))
    if faults:
        raise KitError(*faults)
    return config


def held(space: Space, one: Parameter, value: Any) -> list[Any]:
    """Those of a parameter's values that the experiment's own is."""
    if one.kind == "choice":
        return [choice for choice in one.choices if is_base(space, one, choice)]
    if one.kind == "int" and isinstance(value, float) and value.is_integer():
        value = int(value)  # of an option that takes any number
    return [value] if one.holds(value) else []


def outside(one: Parameter, resolved: dict[str, Any]) -> str:
    value = lookup(resolved, one.key)
    if value is None:
        return f"trial 0 is the experiment as written, which does not set it; set it to one of {one.allowed}"
    key = f"{one.key}.use" if isinstance(value, dict) and "use" in value else one.key
    return (
        f"the experiment says {key} = {told(lookup(resolved, key))}, which {one.allowed} does not hold; trial 0 is the "
        "experiment as written: add its value, or change it"
    )


def is_base(space: Space, one: Conditional, value: Any) -> bool:
    """Whether the experiment, with this value, is as it is without."""
    layers = space.layers.copy()
    try:
        layers.set([(tuple(one.key.split(".")), value, one.location)])
        return Experiment.of(layers, space.folder) == space.base
    except KitError:  # told when the corners are looked at
        return False


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
