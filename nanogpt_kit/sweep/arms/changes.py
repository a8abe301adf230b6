"""The changes of [ablate]: each value of a varied key is one, and each named table of [ablate.changes]."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nanogpt_kit.core.changes import Change
from nanogpt_kit.core.errors import Fault, Key, KitError, dotted
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.layers import Layers
from nanogpt_kit.core.overrides import COMMAND_LINE, parse_key
from nanogpt_kit.core.sections import Ablate
from nanogpt_kit.sweep.arms.vary_option import parse_vary
from nanogpt_kit.sweep.space.parameters import format_json, format_value
from nanogpt_kit.sweep.space.space import is_key_within

VARY, CHANGES = ("ablate", "vary"), ("ablate", "changes")
CANNOT_CHANGE = {  # keys, and why arms cannot differ in them
    "name": "all arms are recorded under the experiment's name",
    "extends": "an experiment's files are read before its changes",
    "components": "an experiment's files are read before its changes; change the component that is used instead",
    "sweep": "a sweep is not part of a run",
    "ablate": "an ablation is not part of a run",
    "train.seed": "every arm runs with train.seed, train.seed + 1, ...; set ablate.seeds",
}


@dataclass(frozen=True)
class ExperimentChange:
    """Options that an arm has instead of the base's."""

    label: str  # "model.mlp=swiglu", or the name of the change
    settings: tuple[Change, ...]  # key, value, location of each option
    factor: str  # the varied key, or the name of the change
    level: str  # the value as text; of a named change "yes"
    key: str  # in the experiment file, for messages
    location: str
    is_named: bool = False

    def fault(self, message: str) -> Fault:
        return Fault(message, self.key, self.location)

    @property
    def options(self) -> set[str]:
        """The dotted keys of its options; a slot is an abbreviation of its `use`."""
        return {dotted(key).removesuffix(".use") for key, _, _ in self.settings}

    @property
    def locations(self) -> set[str]:
        return {location for _, _, location in self.settings}


def combine_changes(changes: Sequence[ExperimentChange]) -> ExperimentChange:
    """The change that makes all of several ones, of different factors."""
    first, *others = changes
    if not others:
        return first
    settings = tuple(setting for change in changes for setting in change.settings)
    return replace(first, label=" + ".join(change.label for change in changes), settings=settings)


class ChangeReader:
    """Reads the changes of an experiment's [ablate] and of `--vary`, and collects what is wrong with them."""

    def __init__(self, experiment: Experiment, options: Ablate) -> None:
        self.layers: Layers = experiment.layers
        self.options = options
        self.faults: list[Fault] = []

    def read(self, vary: Sequence[str] = ()) -> list[ExperimentChange]:
        """The changes without faults, in the order of the table; those of the command line replace its keys."""
        lists = dict(self._varied(self.options.vary, VARY))
        try:
            lists |= {key: (values, ()) for key, values in parse_vary(vary).items()}
        except KitError as error:
            self.faults += error.faults
        found = [change for key, (values, path) in lists.items() for change in self._of_values(key, values, path)]
        found += [change for name, table in self.options.changes.items() for change in self._named(name, table)]
        return [allowed for change in found if (allowed := self._without_refused(change)).settings]

    def _varied(self, table: Mapping[str, Any], path: Key, prefix: str = "") -> Iterator[tuple[str, tuple[Any, Key]]]:
        """Dotted keys with their values, and the path of each, whether the keys were quoted or nested tables."""
        for name, value in table.items():
            if isinstance(value, dict) and value:
                yield from self._varied(value, (*path, name), f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", (value, (*path, name))

    def _of_values(self, key: str, values: Any, path: Key) -> Iterator[ExperimentChange]:
        location = self.layers.location(path) if path else COMMAND_LINE
        where, parts = f"{dotted(VARY)}.{key}" if path else key, parse_key(key)
        if not isinstance(values, list) or not values:
            message = f'should be a list of values, as in "{key}" = [..., ...], got {format_json(values)}'
            self.faults.append(Fault(message, where, location))
            return
        if not parts:
            self.faults.append(Fault("is not a dotted key such as model.mlp", where, location))
            return
        for index, value in enumerate(values):
            place = self.layers.location((*path, index)) if path else COMMAND_LINE
            settings = tuple((at, one, place) for at, one in leaves_of_change(parts, value))
            level = format_level(value)
            yield ExperimentChange(f"{dotted(parts)}={level}", settings, dotted(parts), level, where, place)

    def _named(self, name: str, table: Any) -> Iterator[ExperimentChange]:
        path = (*CHANGES, name)
        location, where = self.layers.location(path), dotted(path)
        if not isinstance(table, dict) or not table:
            example = 'as in "optimizer.lr" = 1e-3'
            message = f"should be a table of dotted keys and their values, {example}, got {format_json(table)}"
            self.faults.append(Fault(message, where, location))
            return
        settings: list[Change] = []
        for key, value in table.items():
            parts = parse_key(key)
            if not parts:
                self.faults.append(Fault("is not a dotted key such as model.mlp", f"{where}.{key}", location))
            for at, one in leaves_of_change(parts, value) if parts else ():
                settings.append((at, one, self.layers.location((*path, key, *at[len(parts) :]))))
        yield ExperimentChange(name, tuple(settings), name, "yes", where, location, is_named=True)

    def _without_refused(self, change: ExperimentChange) -> ExperimentChange:
        """The change without the keys in which arms cannot differ; they are faults, and its other keys are checked."""
        settings = []
        for key, value, location in change.settings:
            reason = next(
                (CANNOT_CHANGE[refused] for refused in CANNOT_CHANGE if is_key_within(dotted(key), refused)), ""
            )
            where = f"{change.key}.{dotted(key)}" if change.is_named else change.key
            fault = Fault(f"cannot be changed: {reason}", where, location)
            if not reason:
                settings.append((key, value, location))
            elif fault not in self.faults:
                self.faults.append(fault)
        return replace(change, settings=tuple(settings))


def leaves_of_change(key: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The options that a value sets: those of a table one by one, each with its own location in messages."""
    if not isinstance(value, dict) or not value:
        yield key, value
        return
    for name, inner in value.items():
        yield from leaves_of_change((*key, str(name)), inner)


def format_level(value: Any) -> str:
    """A value in a label: a table without its quotes."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}={format_level(inner)}' for name, inner in value.items())}}}"
    return format_value(value)
