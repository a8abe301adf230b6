"""The plan of a confirmation: the best trials again, with seeds by which none was chosen.

The best of many trials looks better than it is: of 50 trials that are all equally good, the best is expected 2.25
standard deviations above their mean, if values are normally distributed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState

from nanogpt_kit.sweep.space.parameters import Config
from nanogpt_kit.sweep.space.space import Space
from nanogpt_kit.sweep.study.plan import QueuedTrial
from nanogpt_kit.sweep.study.records import FreshSeed
from nanogpt_kit.sweep.study.space_plan import SpacePlan


class ConfirmationPlan(SpacePlan):
    """A trial for each fresh seed of each of the best `sweep.confirm` trials of the search."""

    kind = "confirmation"
    suffix = "-confirm"
    stage = "confirmation"
    noun = "run"
    ranks_trials = False  # a single run with a fresh seed is not the best of anything

    def __init__(self, space: Space, search_trials: Callable[[], Sequence[FrozenTrial]], nproc: int = 1) -> None:
        unlimited = {"pruner": "none", "max_tokens": None, "max_seconds": None}
        super().__init__(space, space.options.model_copy(update=unlimited), nproc)
        self.search_trials = search_trials
        complete = [trial for trial in search_trials() if trial.state == TrialState.COMPLETE]
        best = rank_trials(complete, self.options.direction)[: self.options.confirm]
        first = space.base.train.seed + self.options.seeds
        self.fresh_seeds = [
            FreshSeed(trial=trial.number, seed=seed)
            for seed in range(first, first + self.options.confirm_seeds)
            for trial in best
        ]

    def missing_trials(self, queued: Sequence[FrozenTrial]) -> list[QueuedTrial]:
        known = [FreshSeed.of(trial) for trial in queued]
        return [QueuedTrial(attributes={run.attribute: run.stored()}) for run in self.fresh_seeds if run not in known]

    def config(self, trial: optuna.Trial) -> Config:
        index = self.folder_index(trial)
        return self.space.from_optuna(next(other for other in self.search_trials() if other.number == index).params)

    def seeds(self, trial: optuna.Trial) -> Sequence[int]:
        return [fresh_seed(trial).seed]

    def folder_index(self, trial: optuna.Trial) -> int:
        return fresh_seed(trial).trial

    def label(self, trial: optuna.Trial) -> str:
        run = fresh_seed(trial)
        return f"trial {run.trial} with seed {run.seed}"


def fresh_seed(trial: optuna.Trial | FrozenTrial) -> FreshSeed:
    run = FreshSeed.of(trial)
    assert run is not None, "each trial of a confirmation was queued with its seed"
    return run


@dataclass(frozen=True)
class ConfirmedTrial:
    """A trial that was run again, with its value for each fresh seed. A seed that failed has none."""

    index: int
    by_seed: Mapping[int, float]
    failed: tuple[int, ...] = ()  # seeds

    @property
    def values(self) -> tuple[float, ...]:
        return tuple(self.by_seed.values())

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def sd(self) -> float | None:
        return statistics.stdev(self.values) if len(self.by_seed) > 1 else None


def direction_sign(direction: str) -> int:
    """1 or -1: the factor of a value that makes lower better."""
    return 1 if direction == "minimize" else -1


def rank_trials(trials: Sequence[FrozenTrial], direction: str) -> list[FrozenTrial]:
    """The trials ordered by value, the best first."""
    return sorted(trials, key=lambda trial: direction_sign(direction) * (trial.value or 0.0))


def confirmed_trials(trials: Sequence[FrozenTrial], direction: str) -> list[ConfirmedTrial]:
    """The results of a confirmation, the best first; those that failed with some seed come last."""
    by_index: dict[int, list[FrozenTrial]] = {}
    for trial in trials:
        by_index.setdefault(fresh_seed(trial).trial, []).append(trial)
    confirmed = []
    for index, runs in by_index.items():
        ended = [run for run in runs if run.state.is_finished()]
        values = {
            fresh_seed(run).seed: run.value
            for run in ended
            if run.state == TrialState.COMPLETE and run.value is not None
        }
        if values:
            failed = tuple(seed for run in ended if (seed := fresh_seed(run).seed) not in values)
            confirmed.append(ConfirmedTrial(index, values, failed))
    return sorted(confirmed, key=lambda trial: (len(trial.failed), direction_sign(direction) * trial.mean))
