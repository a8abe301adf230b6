"""Which parameters decide whether a trial is among the best tenth (PED-ANOVA), overall and in each branch.

Source: Watanabe et al. 2023, arXiv:2304.10255, as Optuna has it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState

from nanogpt_kit.report.page import format_number
from nanogpt_kit.sweep.report.findings import trial_value
from nanogpt_kit.sweep.study.branches import Branch
from nanogpt_kit.sweep.study.summary import SweepSummary, TrialSummary

FEW_TRIALS = 10  # complete trials, overall and in each branch, below which the ranking is that of chance
ROUGH_TRIALS = 50  # below which the best tenth is fewer than five trials
ALL_TRIALS = "all trials"


@dataclass(frozen=True)
class Importances:
    """The importance of each parameter among some trials, adding up to 1; or the reason why none is known."""

    title: str
    trials: int
    values: dict[str, float]
    reason: str = ""


def measure_importances(study: optuna.Study, branches: Sequence[Branch] = ()) -> list[Importances]:
    """The importances among all complete trials, then among those of each branch in which several parameters vary."""
    trials = complete_frozen_trials(study)
    found = [importances_among(trials, ALL_TRIALS, study.direction)]
    for branch in branches if len(branches) > 1 else ():
        chosen = [trial for trial in trials if branch.has(trial.params)]
        importances = importances_among(chosen, branch.label, study.direction)
        if len(importances.values) > 1:
            found.append(importances)
    return found


def complete_frozen_trials(study: optuna.Study) -> list[FrozenTrial]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]


def varied_parameters(trials: Sequence[FrozenTrial | TrialSummary]) -> list[str]:
    """The names of the parameters that have several values among these trials, or that only some of them have."""
    names = dict.fromkeys(name for trial in trials for name in trial.params)
    return [name for name in names if len({trial.params.get(name) for trial in trials}) > 1]


def importances_among(trials: list[FrozenTrial], title: str, direction: optuna.study.StudyDirection) -> Importances:
    if len({trial.value for trial in trials}) == 1:
        return Importances(title, len(trials), {}, "all of them have the same value")
    names = [
        name
        for name in varied_parameters(trials)
        if title == ALL_TRIALS or all(name in trial.params for trial in trials)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna warns that the method is experimental
        try:
            study = optuna.create_study(direction=direction)
            study.add_trials(trials)
            values = optuna.importance.get_param_importances(study, params=names)
        except Exception as error:  # the report matters more than one of its figures
            return Importances(title, len(trials), {}, str(error) or type(error).__name__)
    return Importances(title, len(trials), {name: float(value) for name, value in values.items()})


def missing_for_importances(summary: SweepSummary) -> Iterator[str]:
    """Why the trials are not enough to rank parameters, and what they show instead; nothing if they are enough."""
    complete = summary.complete_trials()
    names = varied_parameters(complete)
    groups = {branch.label: [trial for trial in complete if branch.has(trial.params)] for branch in summary.branches}
    few = {label: len(trials) for label, trials in (groups or {"": complete}).items() if len(trials) < FEW_TRIALS}
    if few:
        yield f"Importances need at least {FEW_TRIALS} complete trials{' in each branch' * bool(groups)}."
        yield from (few_trials_text(label, count) for label, count in few.items())
    elif len(names) == 1:
        yield f"Only {names[0].split('@')[0]} varies among the complete trials, so there is nothing to rank."
    elif not names:
        yield "No parameter varies among the complete trials."
    else:
        return
    for branch in summary.branches:
        best = summary.best_of(branch)
        if best is not None:
            value = f"{summary.options.metric} {format_number(trial_value(best))}"
            yield f"The best complete trial with {branch.label} is trial {best.index}: {value}."


def few_trials_text(label: str, count: int) -> str:
    """Such as "optimizer.use = muon has 3, so 7 more are needed.", without a label "There are 3, ..."."""
    has = f"{label} has" if label else "There are" if count != 1 else "There is"
    missing = FEW_TRIALS - count
    return f"{has} {count}, so {missing} more {'is' if missing == 1 else 'are'} needed."
