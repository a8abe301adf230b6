"""The plan of the search: trials whose values the sampler chooses, the first of them the experiment as written."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from nanogpt_kit.core.errors import Fault, KitError, dotted
from nanogpt_kit.core.layers import COMMAND_LINE
from nanogpt_kit.core.options import leaves
from nanogpt_kit.sweep.space.parameters import Config
from nanogpt_kit.sweep.space.space import Space
from nanogpt_kit.sweep.study.branches import find_branches
from nanogpt_kit.sweep.study.fresh_runs import most_fresh_runs
from nanogpt_kit.sweep.study.plan import QueuedTrial
from nanogpt_kit.sweep.study.space_plan import SpacePlan
from nanogpt_kit.sweep.study.trial_steps import find_trial_steps

COMPARABLE = ("metric", "direction", "seeds", "allocate")  # options of [sweep] that all its trials share


class SearchPlan(SpacePlan):
    """A plan with `sweep.trials` trials, or fewer where the space has fewer points."""

    kind = "search"

    def __init__(self, space: Space, first: Config, nproc: int = 1) -> None:
        """`first` are the values of trial 0."""
        super().__init__(space, space.options, nproc)
        self.first = first
        self.points = space.points()
        self.trial_steps = find_trial_steps(space)

    def facts(self) -> dict[str, Any]:
        base = self.space.base
        return {
            **super().facts(),
            "experiment": base.resolved(),
            "fingerprint": base.fingerprint(),
            "sweep": {key: getattr(self.options, key) for key in COMPARABLE},
            "branches": [dict(branch.params) for branch in find_branches(self.space)],
            "trial_steps": [asdict(steps) for steps in self.trial_steps],
            "nproc": self.nproc,
            "trial_tokens": self.space.trial_tokens,
        }

    def check_facts(self, stored: Mapping[str, Any]) -> None:
        """Raises KitError with each difference from the start of the sweep."""
        super().check_facts(stored)
        faults = list(self._changes(stored, self.facts()))
        if faults:
            reason = "its trials would not be comparable; undo the change, or give the experiment another name"
            raise KitError(*faults, Fault(f"the sweep {self.study_name!r} cannot continue: {reason}"))

    def _changes(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Fault]:
        faults = []
        if before["nproc"] != now["nproc"]:
            faults.append(change_fault(before["nproc"], now["nproc"], "--nproc", COMMAND_LINE))
        tables = [
            ("sweep.space.", before["space"], now["space"]),
            ("sweep.", before["sweep"], now["sweep"]),
            ("", flatten_options(before["experiment"]), flatten_options(now["experiment"])),
        ]
        for prefix, old, new in tables:
            for name in dict.fromkeys((*old, *new)):
                if old.get(name) != new.get(name):
                    key = prefix + name
                    faults.append(
                        change_fault(old.get(name, "absent"), new.get(name, "absent"), key, self._location(key))
                    )
        if not faults and before["fingerprint"] != now["fingerprint"]:
            faults.append(Fault("the code of its local components has changed since the sweep began", "components"))
        yield from faults

    def _location(self, key: str) -> str:
        for parameter in self.space.parameters:
            if key == f"sweep.space.{parameter.name}":
                return parameter.location
        parts = tuple(int(part) if part.isdecimal() else part for part in key.split("."))
        return self.space.base.layers.location(parts)

    def missing_trials(self, queued: Sequence[FrozenTrial]) -> list[QueuedTrial]:
        new = [] if queued else [self.space.to_optuna(self.first)]
        missing = max(0, self.count - len(queued) - len(new))
        if self.options.sampler == "grid":
            assert self.points is not None, "a grid is finite"
            known = [*(trial.system_attrs.get("fixed_params") for trial in queued), *new]
            left = [point for point in map(self.space.to_optuna, self.points) if point not in known]
            if missing < len(left):
                random.Random(self.options.seed).shuffle(left)
            new += left[:missing]
        else:
            new += [{} for _ in range(missing)]
        return [QueuedTrial(params) for params in new]

    def indices(self, queued: Sequence[FrozenTrial]) -> range:
        return range(self.count)

    @property
    def count(self) -> int:
        """Trials to be run."""
        return self.options.trials if self.points is None else min(self.options.trials, len(self.points))

    @property
    def later_runs(self) -> int:
        return most_fresh_runs(self.options, self.count, len(find_branches(self.space)))

    def config(self, trial: optuna.Trial) -> Config:
        return self.space.suggest(trial)

    def seeds(self, trial: optuna.Trial) -> Sequence[int]:
        first = self.space.base.train.seed
        return range(first, first + self.options.seeds)


def change_fault(before: Any, now: Any, key: str, location: str) -> Fault:
    return Fault(f"was {before} when the sweep began and is {now} now", key, location)


def flatten_options(values: Any) -> dict[str, Any]:
    return {dotted(key): value for key, value in leaves(values)}
