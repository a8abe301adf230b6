"""Checks before a sweep starts anything: every endpoint of its space makes a valid experiment on this machine."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.key_rules import is_named
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.sweep.space.parameters import (
    Config,
    Parameter,
    Setting,
    SpaceEntry,
    format_json,
    format_value,
    is_same_value,
)
from nanogpt_kit.sweep.space.space import Space, is_key_within
from nanogpt_kit.train.before_data import check_model
from nanogpt_kit.train.context import resolve_run_context
from nanogpt_kit.train.metric_names import check_metric_options, check_study_metric

MAX_COMBINATIONS = 1000  # of endpoints that are checked; each takes 1 to 10 ms, mostly for its model
MAX_FAULTS = 8  # of combinations that are reported


def check_endpoints(space: Space, nproc: int = 1) -> Config:
    """The values of trial 0, the experiment as written; the runs of a trial have `nproc` processes.

    Raises KitError if these are outside the space, or if endpoints are not valid together or on this machine.
    """
    combinations, validator = EndpointCombinations(space), SpaceValidator(space, nproc)
    never = [entry for entry in space.entries if combinations.config_activating(entry) is None]
    if never:
        raise KitError(*(entry.fault(f"is never varied: no point has {entry.conditions_text}") for entry in never))
    faults: dict[tuple[str, str], tuple[Fault, Config]] = {}
    for config in combinations:
        for fault in validator.faults(config):
            faults.setdefault((fault.key, fault.message), (fault, config))
    if faults:
        first = [validator.add_cause(fault, config) for fault, config in list(faults.values())[:MAX_FAULTS]]
        more = [Fault(f"and {len(faults) - len(first)} more")] if len(faults) > len(first) else []
        raise KitError(*first, *more)
    return values_as_written(space)


class EndpointCombinations:
    """All combinations of endpoints; if they are too many, each endpoint with all others low, with all others high,
    and in random combinations."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.values = {parameter.name: self._values_of(parameter) for parameter in space.parameters}

    def __iter__(self) -> Iterator[Config]:
        every = self.space.combinations(lambda parameter: self.values[parameter.name])
        first = list(itertools.islice(every, MAX_COMBINATIONS + 1))
        if len(first) <= MAX_COMBINATIONS:
            yield from first
            return
        for entry in self.space.entries:
            for value, side in itertools.product(entry.endpoints, (0, -1)):
                config = self.config_activating(entry, value, side)
                assert config is not None, "entries that are never active were refused before"
                yield config
        rng = random.Random(0)  # the same combinations every time
        for _ in range(MAX_COMBINATIONS):
            yield next(self.space.combinations(lambda parameter: [rng.choice(self.values[parameter.name])]))

    def _values_of(self, parameter: Parameter) -> list[Any]:
        """The endpoints, and between them the values that conditions name."""
        values = list(parameter.endpoints)
        for condition in (condition for entry in self.space.entries for condition in entry.when):
            for value in condition.values if condition.key == parameter.key else ():
                if parameter.contains(value) and not any(is_same_value(value, known) for known in values):
                    values.append(value)
        return values

    def config_activating(self, entry: Parameter | Setting, value: Any = None, side: int = 0) -> Config | None:
        """A combination in which `entry` is active and has `value`; None if there is none.

        Parameters that do not decide whether it is active have their endpoint at `side`.
        """
        deciding = {condition.key for condition in entry.when}
        for parameter in reversed(self.space.parameters):  # those that others depend on come first
            if parameter.key in deciding:
                deciding |= {condition.key for condition in parameter.when}

        def allowed(parameter: Parameter) -> list[Any]:
            if parameter is entry:
                return [value]
            if parameter.key not in deciding:
                return [parameter.endpoints[side]]
            conditions = [condition for condition in entry.when if condition.key == parameter.key]
            values = self.values[parameter.name]
            return [one for one in values if all(condition.holds({parameter.key: one}) for condition in conditions)]

        return next((config for config in self.space.combinations(allowed) if entry.is_active(config)), None)


class SpaceValidator:
    """Checks the experiments of a space, assembled without weights or data."""

    def __init__(self, space: Space, nproc: int) -> None:
        self.space, self.nproc = space, nproc
        self.valid_parts: set[tuple[type, str, RunContext]] = set()  # components, and the context they were checked in

    def faults(self, config: Config) -> tuple[Fault, ...]:
        """The faults of these values together, and on this machine."""
        try:
            experiment = self.space.experiment(config)
            ctx, _ = resolve_run_context(experiment, self.nproc)
            parts = {(type(part), repr(part), ctx) for _, part in experiment.parts()}
            if not parts <= self.valid_parts:
                experiment.check_context(ctx)
                check_model(experiment, ctx)
                check_metric_options(experiment)
                check_study_metric(experiment, self.space.options.metric)
                self.valid_parts |= parts
        except KitError as error:
            return error.faults
        return ()

    def add_cause(self, fault: Fault, config: Config) -> Fault:
        """The fault, with those other values that it depends on; a value without which the fault remains is left out.

        Of twenty values the user sees the one or two that conflict.
        """
        location = fault.location
        for key in config:
            rest = {other: value for other, value in config.items() if other != key}
            same = [one for one in self.faults(rest) if (one.key, one.message) == (fault.key, fault.message)]
            if same:
                config, location = rest, same[0].location or location  # a value without its condition has no location
        causes = [
            f"{key} = {format_value(value)}" for key, value in config.items() if not is_key_within(fault.key, key)
        ]
        message = fault.message + (f" (with {', '.join(causes)})" if causes else "")
        return Fault(message, fault.key, location or self.space.parameters[0].location)


def values_as_written(space: Space) -> Config:
    """The experiment's own values of the parameters. Raises KitError if the space does not contain them."""
    config: Config = {}
    faults: list[Fault] = []
    resolved = space.base.resolved()
    for parameter in space.parameters:
        if not parameter.is_active(config):
            continue
        values = values_equal_to_base(space, parameter, value_at_key(resolved, parameter.key))
        if len(values) > 1:
            faults.append(
                parameter.fault(
                    f"{' and '.join(map(format_json, values))} are the same experiment, since options that a choice "
                    "does not name keep the experiment's values; name them"
                )
            )
        if values:
            config[parameter.key] = values[0]
        else:
            faults.append(parameter.fault(not_in_space_text(parameter, resolved)))
    for setting in space.settings:
        if setting.is_active(config) and not equals_base(space, setting, setting.value):
            faults.append(
                setting.fault(
                    f"is {format_value(setting.value)} where {setting.conditions_text}, which the experiment as "
                    "written has with another value; trial 0 is the experiment as written: make the two equal"
                )
            )
    if faults:
        raise KitError(*faults)
    return config


def values_equal_to_base(space: Space, parameter: Parameter, value: Any) -> list[Any]:
    """The values of a parameter that equal the experiment's own `value`."""
    if parameter.kind == "choice":
        return [choice for choice in parameter.choices if equals_base(space, parameter, choice)]
    if parameter.kind == "int" and isinstance(value, float) and value.is_integer():
        value = int(value)  # of an option that takes any number
    return [value] if parameter.contains(value) else []


def not_in_space_text(parameter: Parameter, resolved: dict[str, Any]) -> str:
    value = value_at_key(resolved, parameter.key)
    if value is None:
        return f"the experiment does not set it, and trial 0 is the experiment as written; set {parameter.values_text}"
    key = f"{parameter.key}.use" if isinstance(value, dict) and "use" in value else parameter.key
    own_value = format_value(value_at_key(resolved, key))
    return (
        f"the experiment has {key} = {own_value}, which is not in {parameter.values_text}; "
        "trial 0 is the experiment as written: add its value to the space, or change it"
    )


def equals_base(space: Space, entry: SpaceEntry, value: Any) -> bool:
    """Whether the experiment with this value is the experiment as written."""
    layers = space.layers.copy()
    try:
        layers.set([(tuple(entry.key.split(".")), value, entry.location)])
        return Experiment.of(layers, space.folder) == space.base
    except KitError:  # reported when the endpoints are checked
        return False


def value_at_key(values: Any, key: str) -> Any:
    """The value at a dotted key of nested tables and lists; None if there is none."""
    for part in key.split("."):
        if isinstance(values, dict):
            values = values.get(part)
        elif isinstance(values, list) and part.isdecimal() and int(part) < len(values):
            values = values[int(part)]
        elif isinstance(values, list):
            values = next((element for element in values if is_named(element, part)), None)
        else:
            return None
    # sampler.temperature is the only option of that sampler
    last = key.rpartition(".")[2]
    if isinstance(values, dict) and is_named(values, last) and len(values) == 2:
        return next(value for option, value in values.items() if option != "use")
    return values
