"""Which parameters decide whether a trial is among the best tenth (PED-ANOVA), overall and in each branch.

Source: Watanabe et al. 2023, arXiv:2304.10255, as Optuna has it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from nanogpt_kit.sweep.report.findings import FEW_TRIALS

ROUGH_TRIALS = 50  # below which the best tenth is fewer than five trials
ALL_TRIALS = "all trials"


@dataclass(frozen=True)
class Importances:
    """The importance of each parameter among some trials, adding up to 1; or the reason why none is known."""

    title: str
    trials: int
    values: dict[str, float]
    reason: str = ""


def measure_importances(study: optuna.Study) -> list[Importances]:
    """The importances among all complete trials, then among the trials of each branch."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
    found = [importances_among(trials, ALL_TRIALS, study.direction)]
    for branch in branch_trials(trials):
        importances = importances_among(branch, branch_title(branch, trials), study.direction)
        if len(importances.values) > 1:
            found.append(importances)
    return found


def branch_trials(trials: list[FrozenTrial]) -> Iterator[list[FrozenTrial]]:
    """The trials that have a parameter which others lack; each set of trials once."""
    seen: set[tuple[int, ...]] = set()
    for name in dict.fromkeys(name for trial in trials for name in trial.params):
        branch = [trial for trial in trials if name in trial.params]
        indices = tuple(trial.number for trial in branch)
        if FEW_TRIALS <= len(branch) < len(trials) and indices not in seen:
            seen.add(indices)
            yield branch


def branch_title(branch: list[FrozenTrial], trials: list[FrozenTrial]) -> str:
    """The choice that its trials have in common and others lack; otherwise the names that only they have."""
    first = branch[0]
    shared = [name for name in first.params if all(name in trial.params for trial in branch)]
    choices = [
        f"{name} = {first.params[name]}"
        for name in shared
        if isinstance(first.distributions[name], CategoricalDistribution)
        and all(trial.params[name] == first.params[name] for trial in branch)
        and any(trial.params.get(name) != first.params[name] for trial in trials)
    ]
    only_here = [name for name in shared if any(name not in trial.params for trial in trials)]
    return ", ".join(choices) or f"trials with {', '.join(only_here)}"


def importances_among(trials: list[FrozenTrial], title: str, direction: optuna.study.StudyDirection) -> Importances:
    if len(trials) < 2:
        return Importances(title, len(trials), {}, "fewer than two trials are complete")
    if len({trial.value for trial in trials}) == 1:
        return Importances(title, len(trials), {}, "all of them have the same value")
    names = [
        name
        for name in dict.fromkeys(name for trial in trials for name in trial.params)
        if len({trial.params.get(name) for trial in trials}) > 1
        and (title == ALL_TRIALS or all(name in trial.params for trial in trials))
    ]
    if not names:
        return Importances(title, len(trials), {}, "no parameter varies among them")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna warns that the method is experimental
        try:
            study = optuna.create_study(direction=direction)
            study.add_trials(trials)
            values = optuna.importance.get_param_importances(study, params=names)
        except Exception as error:  # the report matters more than one of its figures
            return Importances(title, len(trials), {}, str(error) or type(error).__name__)
    return Importances(title, len(trials), {name: float(value) for name, value in values.items()})
