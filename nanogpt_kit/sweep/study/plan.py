"""The best trials once more, with seeds that nobody has chosen by: the best of many looks better than it is.

Of 50 trials that are all alike the best is expected 2.25 standard deviations above their mean, as of normal draws.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.launch.slots import MachineSlot
from nanogpt_kit.sweep.space.parameters import Config
from nanogpt_kit.sweep.study.runs import Run, make_runs
from nanogpt_kit.sweep.study.study import Study

SUFFIX = "-confirm"  # of the study in which each run is a trial


class Confirmation(Study):
    """A study whose trials are runs of another's best ones, each with a fresh seed."""

    def __init__(self, of: Study, storage: BaseStorage, folder: Path) -> None:
        super().__init__(of.space, storage, folder, of.nproc, SUFFIX)
        self.of = of
        whole = {"pruner": "none", "max_tokens": None, "max_seconds": None}
        self.options = of.options.model_copy(update=whole)
        best = ranked(of.trials(TrialState.COMPLETE), of.options.direction)[: of.options.confirm]
        after = of.base.train.seed + of.options.seeds
        self.wanted = [
            {"trial": trial.number, "seed": after + number}
            for number in range(of.options.confirm_seeds)
            for trial in best
        ]
        self.count = len(self.wanted)

    def confirm(self) -> None:
        """Begins the study, or goes on with it."""
        self.begin({"space": self.space.described()}, [])

    def check_facts(self, now: dict[str, Any]) -> None:
        """The sweep's own were checked; this one must not be another sweep's."""
        if "experiment" in self.study.user_attrs:
            raise KitError(
                f"the storage has a sweep {self.name!r}, where this one is to be confirmed; take another name"
            )

    def queue(self, first: Sequence[dict[str, Any]]) -> None:
        there = [trial.user_attrs for trial in self.trials()]
        for wanted in self.wanted:
            if not any(wanted.items() <= attributes.items() for attributes in there):
                self.study.enqueue_trial({}, user_attrs=wanted)
        self.count = len(self.trials())  # with those that were among the best of fewer trials

    def config(self, trial: optuna.Trial) -> Config:
        number = trial.user_attrs["trial"]
        original = next(one for one in self.of.trials() if one.number == number)
        return self.space.config(original.params)

    def runs(self, trial: optuna.Trial, slot: MachineSlot, folder: Path) -> list[Run]:
        number, seed = trial.user_attrs["trial"], trial.user_attrs["seed"]
        return make_runs(self.space, number, self.config(trial), [seed], slot.threads, folder)

    def _check_leftovers(self) -> None:
        """The folder is the sweep's, and holds its trials."""


@dataclass(frozen=True)
class Confirmed:
    """One of the best trials: the values that its fresh seeds gave. A seed that failed has none."""

    number: int
    values: tuple[float, ...]
    failed: int

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)


def ranked(trials: Sequence[FrozenTrial], direction: str) -> list[FrozenTrial]:
    """The best first."""
    sign = 1 if direction == "minimize" else -1
    return sorted(trials, key=lambda trial: sign * (trial.value or 0.0))


def confirmed(trials: Sequence[FrozenTrial], direction: str) -> list[Confirmed]:
    """What the trials of a confirmation say, the best first; those that failed with some seed come last."""
    found = []
    for number in dict.fromkeys(trial.user_attrs["trial"] for trial in trials):
        mine = [trial for trial in trials if trial.user_attrs["trial"] == number and trial.state.is_finished()]
        values = tuple(trial.value for trial in mine if trial.state == TrialState.COMPLETE and trial.value is not None)
        if values:
            found.append(Confirmed(number, values, len(mine) - len(values)))
    sign = 1 if direction == "minimize" else -1
    return sorted(found, key=lambda one: (one.failed, sign * one.mean))
