"""The plan of the search: trials whose values the sampler chooses, the first of them the experiment as written."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial

from nanogpt_kit.core.errors import Fault, KitError, dotted
from nanogpt_kit.core.options import leaves
from nanogpt_kit.core.overrides import COMMAND_LINE
from nanogpt_kit.sweep.space.parameters import Config
from nanogpt_kit.sweep.space.space import Space
from nanogpt_kit.sweep.study.allocation import allocate_trials, trial_count, turns
from nanogpt_kit.sweep.study.branches import branch_index, find_branches, fixed_params, known_params
from nanogpt_kit.sweep.study.confirmation import most_confirmed
from nanogpt_kit.sweep.study.plan import QueuedTrial
from nanogpt_kit.sweep.study.plugin_versions import plugin_faults, plugin_versions
from nanogpt_kit.sweep.study.sampler import make_pruner
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
        self.count = trial_count(space)  # of trials to be run
        self.branches = find_branches(space)
        self.allocations = allocate_trials(space) if space.options.allocate == "equal" else []

    def pruner(self) -> BasePruner:
        return make_pruner(self.options, self.trial_tokens, self.branches if self.allocations else ())

    def facts(self) -> dict[str, Any]:
        base = self.space.base
        return {
            **super().facts(),
            "experiment": base.resolved(),
            "fingerprint": base.fingerprint(),
            "plugins": plugin_versions(self.space),
            "sweep": {key: getattr(self.options, key) for key in COMPARABLE},
            "branches": [dict(branch.params) for branch in self.branches],
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
        faults += plugin_faults(before["plugins"], now["plugins"])
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
        if self.allocations:
            return [QueuedTrial(params) for params in self._missing_in_branches(queued, new)]
        missing = max(0, self.count - len(queued) - len(new))
        if self.options.sampler == "grid":
            assert self.points is not None, "a grid is finite"
            new += self._grid_points(self.points, [*map(fixed_params, queued), *new], missing)
        else:
            new += [{} for _ in range(missing)]
        return [QueuedTrial(params) for params in new]

    def _missing_in_branches(self, queued: Sequence[FrozenTrial], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """`new` and what else is missing, in turns: a search that ends early has tried all branches nearly equally."""
        known = [*map(fixed_params, queued), *new]
        order = list(turns(self.allocations, known))
        grids: list[list[dict[str, Any]]] = []
        if self.options.sampler == "grid":
            for index, one in enumerate(self.allocations):
                assert one.points is not None, "a grid is finite"
                grids.append(self._grid_points(one.points, known, order.count(index)))
        return [*new, *(grids[index].pop(0) if grids else dict(self.branches[index].params) for index in order)]

    def _grid_points(
        self, points: Sequence[Config], known: Sequence[dict[str, Any]], count: int
    ) -> list[dict[str, Any]]:
        """`count` of the points that are not `known` yet: in order if these are all, otherwise drawn from them.

        They are drawn in one order, whatever is known, so that a queue continues as it was begun.
        """
        ranks = random.Random(self.options.seed).sample(range(len(points)), len(points))
        queue = zip(ranks, map(self.space.to_optuna, points), strict=True)
        left = [(rank, point) for rank, point in queue if point not in known]
        if count < len(left):
            left.sort(key=lambda ranked: ranked[0])
        return [point for _, point in left[:count]]

    def indices(self, queued: Sequence[FrozenTrial]) -> Collection[int]:
        if not self.allocations:
            return range(self.count)
        chosen, counts = [], Counter[int]()
        for trial in queued:  # two machines may have queued what was missing
            index = branch_index(self.branches, known_params(trial))
            if index is not None and counts[index] < self.allocations[index].trials:
                chosen.append(trial.number)
                counts[index] += 1
        return set(chosen)

    @property
    def later_runs(self) -> int:
        return most_confirmed(self.options, len(self.branches), self.count) * self.options.confirm_seeds

    def config(self, trial: optuna.Trial) -> Config:
        return self.space.suggest(trial)

    def seeds(self, trial: optuna.Trial) -> Sequence[int]:
        first = self.space.base.train.seed
        return range(first, first + self.options.seeds)


def change_fault(before: Any, now: Any, key: str, location: str) -> Fault:
    return Fault(f"was {before} when the sweep began and is {now} now", key, location)


def flatten_options(values: Any) -> dict[str, Any]:
    return {dotted(key): value for key, value in leaves(values)}
