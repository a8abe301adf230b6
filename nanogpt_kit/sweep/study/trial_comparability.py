"""Which trials of a sweep do not compare with trial 0, for the reasons for which `compare` refuses arms.

Such a trial runs, ranks and may be the best by the sweep's metric; it has no verdict.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from nanogpt_kit.comparison.budgets import UNEVEN, planned_faults
from nanogpt_kit.comparison.comparability import instruments
from nanogpt_kit.comparison.instruments import measuring_fault
from nanogpt_kit.comparison.question import Arm, Question
from nanogpt_kit.core.errors import Fault
from nanogpt_kit.runs.folder import PROVENANCE, RunFolder
from nanogpt_kit.sweep.space.space import Space
from nanogpt_kit.sweep.study.ownership import is_on_this_machine
from nanogpt_kit.sweep.study.records import NotComparable, Owner, TrialResult
from nanogpt_kit.sweep.study.runs import run_path

ALWAYS_COMPARABLE = ("model", "optimizer")  # tables that change neither the text, nor its tokens, nor the budget
METRIC_KEY = "sweep.metric"


def store_incomparable(study: optuna.Study, space: Space, indices: Sequence[int]) -> None:
    """Stores in the study of the search which of these trials do not compare with trial 0, and why.

    Reads what their runs on this machine recorded; the data of other trials is prepared, as their runs need it, too.
    """
    trials = {trial.number: trial for trial in study.get_trials(deepcopy=False)}
    others = [trials[index] for index in indices if index != 0]
    if not others or not trials[0].params:
        return
    add_reasons(study, dict(find_incomparable(space, trials[0], others)))


def store_uneven_budgets(study: optuna.Study, runs: Sequence[tuple[int, FrozenTrial]]) -> None:
    """Stores in the study of the search which trials trained for less, or for more, than planned.

    `runs` are those that a verdict would compare, each with the index of its trial.
    """
    add_reasons(study, dict(find_uneven_budgets(runs)))


def add_reasons(study: optuna.Study, found: Mapping[int, str]) -> None:
    stored = NotComparable.of_study(study)
    newest = NotComparable(reasons={**{str(index): reason for index, reason in found.items()}, **stored.reasons})
    if newest != stored:
        newest.store_in(study)


def find_uneven_budgets(runs: Sequence[tuple[int, FrozenTrial]]) -> Iterator[tuple[int, str]]:
    """The index of each trial with other training than trial 0, and the reason."""
    results = [(index, result) for index, run in runs if (result := TrialResult.of(run)) and run.value is not None]
    by_seconds = {
        index: {one.ended_by == "max_seconds" for other, one in results if other == index} for index, _ in runs
    }
    stopped = {index: result.step for index, result in results if result.ended_by == "callback"}
    for index in by_seconds.keys() - {0}:
        if stopped.keys() & {index, 0}:
            other = index if index in stopped else 0
            yield index, f"trial {other} was ended by a callback after {stopped[other]:,} steps; {UNEVEN}"
        elif len(by_seconds[index] | by_seconds.get(0, set())) > 1:
            reason = f"only some runs of trial {index} and trial 0 were ended by train.max_seconds"
            yield index, f"{reason}; give them enough train.steps, or no limit of seconds"


def find_incomparable(space: Space, first: FrozenTrial, others: Sequence[FrozenTrial]) -> Iterator[tuple[int, str]]:
    """The index of each trial that does not compare with `first`, and the reason."""
    base = arm_of(space, first)
    own = reason_text(planned_faults(question_of(space, base)))  # of the experiment itself
    measured = []
    for trial in others:
        arm = arm_of(space, trial)
        reason = own or reason_text(planned_faults(question_of(space, base, arm)))
        if reason:
            yield trial.number, reason
        elif differs_in_measuring(space, first, trial):
            measured.append(trial)
    if not measured:
        return
    arms = [recorded_arm(space, trial) for trial in (first, *measured)]
    standard, *found = instruments(question_of(space, *arms))
    for trial, instrument in zip(measured, found, strict=True):
        fault = measuring_fault(space.options.metric, instrument, standard, METRIC_KEY)
        if fault is not None:
            yield trial.number, fault.message


def differs_in_measuring(space: Space, first: FrozenTrial, trial: FrozenTrial) -> bool:
    one, other = space.from_optuna(first.params), space.from_optuna(trial.params)
    changed = (key for key in {*one, *other} if one.get(key) != other.get(key))
    return any(key.split(".")[0] not in ALWAYS_COMPARABLE for key in changed)


def question_of(space: Space, *arms: Arm) -> Question:
    return Question("compare", arms, space.options.metric, space.options.direction)


def arm_of(space: Space, trial: FrozenTrial) -> Arm:
    return Arm(f"trial {trial.number}", space.experiment(space.from_optuna(trial.params)))


def recorded_arm(space: Space, trial: FrozenTrial) -> Arm:
    """With the run of its first seed, which recorded what measured it, if that is on this machine."""
    arm, owner = arm_of(space, trial), Owner.of(trial)
    if owner is None or not is_on_this_machine(owner):
        return arm
    run = RunFolder(run_path(Path(owner.folder), trial.number, space.base.train.seed))
    return Arm(arm.label, arm.experiment, runs=(run,)) if (run.path / PROVENANCE).exists() else arm


def reason_text(faults: Iterator[Fault]) -> str:
    return "; ".join(dict.fromkeys(fault.message for fault in faults))
