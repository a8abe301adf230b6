"""The plan of a confirmation: some trials of the search again, with seeds by which none was chosen.

The best of many trials looks better than it is: of 50 trials that are all equally good, the best is expected 2.25
standard deviations above their mean, if values are normally distributed. The experiment as written and the best of each
branch are confirmed too, since a verdict compares the best with them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.sections import Sweep
from nanogpt_kit.sweep.space.parameters import Config
from nanogpt_kit.sweep.space.space import Space
from nanogpt_kit.sweep.study.branches import Branch, find_branches
from nanogpt_kit.sweep.study.plan import QueuedTrial
from nanogpt_kit.sweep.study.records import FreshSeed
from nanogpt_kit.sweep.study.space_plan import SpacePlan


class ConfirmationPlan(SpacePlan):
    """A trial for each fresh seed of each trial of the search that `choose_trials` chooses."""

    kind = "confirmation"
    suffix = "-confirm"
    stage = "confirmation"
    noun = "run"
    budgeted = "runs with fresh seeds"
    ranks_trials = False  # a single run with a fresh seed is not the best of anything

    def __init__(self, space: Space, search_trials: Callable[[], Sequence[FrozenTrial]], nproc: int = 1) -> None:
        super().__init__(space, space.options.model_copy(update={"pruner": "none"}), nproc)
        self.search_trials = search_trials
        complete = [trial for trial in search_trials() if trial.state == TrialState.COMPLETE]
        ranked = [(trial.number, trial.params) for trial in rank_trials(complete, self.options.direction)]
        self.chosen = choose_trials(ranked, self.options.confirm, find_branches(space))

    def missing_trials(self, queued: Sequence[FrozenTrial]) -> list[QueuedTrial]:
        """Seed by seed, so that what is ended early has whole pairs.

        Trials that were chosen before keep to all seeds, and new ones get those of the others.
        """
        known = [fresh_seed(trial) for trial in queued]
        trials = dict.fromkeys([*self.chosen, *(run.trial for run in known)])
        wanted = [FreshSeed(trial=index, seed=seed) for seed in self.fresh_seeds(known) for index in trials]
        return [QueuedTrial(attributes={run.attribute: run.stored()}) for run in wanted if run not in known]

    def fresh_seeds(self, known: Sequence[FreshSeed]) -> range:
        """All seeds of the confirmation; `known` are the runs that it has already."""
        first = self.space.base.train.seed + self.options.seeds
        return range(first, max([first + self.options.confirm_seeds, *(run.seed + 1 for run in known)]))

    def config(self, trial: optuna.Trial) -> Config:
        index = self.folder_index(trial)
        return self.space.from_optuna(next(other for other in self.search_trials() if other.number == index).params)

    def seeds(self, trial: optuna.Trial) -> Sequence[int]:
        return [fresh_seed(trial).seed]

    def runs_of_graph(self, experiment: Experiment, others: Collection[int]) -> int:
        """One for each, where the space varies nothing that decides a graph."""
        return super().runs_of_graph(experiment, others) // self.options.seeds

    def folder_index(self, trial: optuna.Trial) -> int:
        return fresh_seed(trial).trial

    def is_required(self, index: int) -> bool:
        """A run that is refused is a failed seed of its trial."""
        return False

    def label(self, trial: optuna.Trial) -> str:
        run = fresh_seed(trial)
        return f"trial {run.trial} with seed {run.seed}"


def fresh_seed(trial: optuna.Trial | FrozenTrial) -> FreshSeed:
    run = FreshSeed.of(trial)
    assert run is not None, "each trial of a confirmation was queued with its seed"
    return run


# Which trials


def choose_trials(ranked: Sequence[tuple[int, Mapping[str, Any]]], best: int, branches: Sequence[Branch]) -> list[int]:
    """The indices of the trials to confirm: trial 0, the best ones, at least one other, and the best of each branch.

    `ranked` are the complete trials with their parameters, the best first, and `best` is sweep.confirm.
    """
    first = [index for index, _ in ranked if index == 0]
    others = [index for index, _ in ranked if index != 0]
    of_branches = [next((index for index, params in ranked if branch.has(params)), None) for branch in branches]
    of_all = [index for index, _ in ranked[:best]]
    chosen = [*first, *(of_all if of_all != [0] else others[:1]), *of_branches]  # trial 0 alone compares with nothing
    return list(dict.fromkeys(index for index in chosen if index is not None))


def most_confirmed(options: Sweep, branches: int, complete: int) -> int:
    """How many of `complete` trials a confirmation takes at most: the best of all is also that of its branch."""
    return min(complete, options.confirm + 1 + max(0, branches - 1)) if options.confirm else 0


def runs_left(options: Sweep, branches: int, complete: int, queued: Sequence[FrozenTrial]) -> int:
    """How many runs a confirmation that has those of `queued` still needs at most, after `complete` complete trials."""
    runs = [fresh_seed(trial) for trial in queued]
    known = {run.trial for run in runs}
    trials = min(complete, len(known) + most_confirmed(options, branches, complete) - (0 in known))
    seeds = max(options.confirm_seeds, len({run.seed for run in runs}))
    return trials * seeds - sum(trial.state.is_finished() for trial in queued)


# Its results


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
    confirmed = [trial for trial in read_confirmed(trials) if trial.by_seed]
    return sorted(confirmed, key=lambda trial: (len(trial.failed), direction_sign(direction) * trial.mean))


def read_confirmed(trials: Sequence[FrozenTrial]) -> Iterator[ConfirmedTrial]:
    """Every trial of a confirmation, in the order in which they were chosen; also those without any value."""
    by_index: dict[int, list[FrozenTrial]] = {}
    for trial in trials:
        by_index.setdefault(fresh_seed(trial).trial, []).append(trial)
    for index, runs in by_index.items():
        ended = sorted((run for run in runs if run.state.is_finished()), key=lambda run: fresh_seed(run).seed)
        values = {
            fresh_seed(run).seed: run.value
            for run in ended
            if run.state == TrialState.COMPLETE and run.value is not None
        }
        failed = tuple(seed for run in ended if (seed := fresh_seed(run).seed) not in values)
        yield ConfirmedTrial(index, values, failed)
