"""The state of a confirmation: which trials run again, with which seeds, and how much of it has ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from nanogpt_kit.sweep.study.confirmation import ConfirmationPlan, fresh_seed
from nanogpt_kit.sweep.study.ownership import Ownership, OwnershipState
from nanogpt_kit.sweep.study.records import JudgedSeeds, SeedsLook, TrialResult


@dataclass(frozen=True)
class ConfirmationState:
    """What a confirmation has queued, and what has ended."""

    trials: tuple[int, ...]  # indices, in the order in which they were chosen
    seeds: tuple[int, ...]  # with which each of them runs
    runs: int
    ended: int  # runs, those that failed included
    is_running: bool  # a controller runs one of them
    tokens: int = 0  # of the runs that have ended
    seconds: float = 0.0  # the same, in steps
    looks: tuple[SeedsLook, ...] = ()  # that verdicts have taken

    @property
    def is_finished(self) -> bool:
        return self.ended == self.runs


def confirmation_state(study: optuna.Study) -> ConfirmationState:
    """Of the study of a confirmation."""
    trials = study.get_trials(deepcopy=False)
    runs = [fresh_seed(trial) for trial in trials]
    results = [result for trial in trials if (result := TrialResult.of(trial)) is not None]
    return ConfirmationState(
        trials=tuple(dict.fromkeys(run.trial for run in runs)),
        seeds=tuple(sorted({run.seed for run in runs})),
        runs=len(runs),
        ended=sum(trial.state.is_finished() for trial in trials),
        is_running=has_running_trials(trials),
        tokens=sum(result.tokens for result in results),
        seconds=sum(result.seconds for result in results),
        looks=JudgedSeeds.of_study(study).looks,
    )


def has_running_trials(trials: Sequence[FrozenTrial]) -> bool:
    """Whether the controller of one of them is alive, here or elsewhere."""
    ownership = Ownership(Path(), ConfirmationPlan.suffix)  # each trial has the folder of its owner
    begun = (trial for trial in trials if trial.state == TrialState.RUNNING)
    return any(ownership.state(trial) in (OwnershipState.ALIVE, OwnershipState.CLAIMED) for trial in begun)
