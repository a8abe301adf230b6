"""Arms from changes: each is the experiment with one change, or with a combination of several, checked as a run is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.sweep.arms.changes import ExperimentChange, combine_changes
from nanogpt_kit.sweep.space.space import layers_with_defaults

MAX_ARMS = 64  # of a factorial ablation, the base included


@dataclass(frozen=True)
class ChangedExperiment:
    """An arm before it is matched."""

    change: ExperimentChange
    experiment: Experiment
    levels: dict[str, str] = field(default_factory=dict)  # by factor, of those that differ from the base


class ArmAssembly:
    """Makes the arms of an ablation of `base`, and collects the faults of all of them."""

    def __init__(self, base: Experiment, check: Callable[[Experiment], object]) -> None:
        """`check` raises KitError for an experiment that cannot run."""
        self.base, self.check = base, check
        self.layers = layers_with_defaults(base)
        self.faults: list[Fault] = []

    def experiment(self, change: ExperimentChange, more: dict[str, int] | None = None) -> Experiment:
        """The base with a change, and with `more` options. Raises KitError where that is not valid."""
        layers = self.layers.copy()
        extra = [(tuple(key.split(".")), value, change.location) for key, value in (more or {}).items()]
        layers.set(change.settings)
        layers.set(extra)
        return type(self.base).of(layers, self.base.folder)

    def single_arms(self, changes: Sequence[ExperimentChange]) -> list[ChangedExperiment]:
        """An arm for each change. Values that the base has already are left out; arms that are the same are faults."""
        arms = []
        seen: dict[str, ExperimentChange] = {}
        own = self.base.configuration()
        for change in changes:
            experiment = self._valid_experiment(change)
            if experiment is None:
                continue
            configuration, is_named = experiment.configuration(), change.factor == change.label
            if experiment == self.base and not is_named:
                continue
            if configuration == own:
                self._add(change.fault(f"{change.label} changes nothing that decides the result of a run; remove it"))
            elif configuration in seen:
                other = seen[configuration]
                message = f"{change.label} is the same experiment as {other.label} ({other.location}); remove one"
                self._add(change.fault(message))
            else:
                seen[configuration] = change
                arms.append(ChangedExperiment(change, experiment, {change.factor: change.level}))
        return arms

    def combined_arms(self, singles: Sequence[ChangedExperiment]) -> list[ChangedExperiment]:
        """Every combination of the changes of different factors, those of one change included, in the table's order."""
        levels: dict[str, list[ChangedExperiment | None]] = {}
        for single in singles:
            levels.setdefault(single.change.factor, [None]).append(single)
        if not self._may_combine(levels):
            return []
        arms: list[ChangedExperiment] = []
        seen: dict[str, ExperimentChange] = {}
        for chosen in itertools.product(*levels.values()):
            parts = [part for part in chosen if part is not None]
            if not parts:
                continue
            change = combine_changes([part.change for part in parts])
            experiment = parts[0].experiment if len(parts) == 1 else self._valid_experiment(change)
            if experiment is None:
                continue
            other = seen.setdefault(experiment.configuration(), change)
            if other is not change:
                message = f"{change.label} is the same experiment as {other.label}, so their effects are one"
                self._add(change.fault(f"{message}; remove a factor, or leave out ablate.factorial"))
            arms.append(ChangedExperiment(change, experiment, {part.change.factor: part.change.level for part in parts}))
        return arms

    def _may_combine(self, levels: dict[str, list[ChangedExperiment | None]]) -> bool:
        """Whether no two factors set the same option, and the combinations are not too many; else faults are added."""
        count, faults = math.prod(map(len, levels.values())), len(self.faults)
        changes = [single.change for singles in levels.values() for single in singles if single is not None]
        for one, other in itertools.combinations(changes, 2):
            both = one.keys() & other.keys()
            if one.factor != other.factor and both:
                message = f"{one.label} and {other.label} both set {min(both)}, so they have no combination"
                self._add(other.fault(message))
        if count > MAX_ARMS:
            sizes = " x ".join(f"{len(singles)}" for singles in levels.values())
            location = self.base.layers.location(("ablate", "factorial"))
            message = f"{sizes} = {count:,} arms are too many, at most {MAX_ARMS}; vary fewer keys or values"
            self._add(Fault(message, "ablate.factorial", location))
        return len(self.faults) == faults

    def _valid_experiment(self, change: ExperimentChange) -> Experiment | None:
        """The base with a change; None where that cannot run, and then its faults are added."""
        try:
            experiment = self.experiment(change)
            self.check(experiment)
        except KitError as error:
            for fault in error.faults:
                self._add(with_cause(fault, change))
            return None
        return experiment

    def _add(self, fault: Fault) -> None:
        if fault not in self.faults:
            self.faults.append(fault)


def with_cause(fault: Fault, change: ExperimentChange) -> Fault:
    """The fault of an arm: one that is not at the change's own lines says which change leads to it, and where."""
    if fault.location in change.locations:
        return fault
    place = f"{fault.location}: " if fault.location and fault.location != "default" else ""
    return Fault(f"{place}{fault.message} (with {change.label})", fault.key, change.location)
