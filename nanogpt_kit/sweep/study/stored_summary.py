"""Reads the summary of a sweep from its study and run folders; no controller needs to be running."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from pydantic import TypeAdapter

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.sections import Sweep
from nanogpt_kit.runs import metrics
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.sweep.study.confirmation import ConfirmationPlan, confirmed_trials, fresh_seed
from nanogpt_kit.sweep.study.confirmation_state import confirmation_state
from nanogpt_kit.sweep.study.ownership import Ownership, OwnershipState
from nanogpt_kit.sweep.study.records import FORMAT, NotComparable, Owner, TrialResult, report_damage
from nanogpt_kit.sweep.study.sampler import report_unit
from nanogpt_kit.sweep.study.search import COMPARABLE, SearchPlan
from nanogpt_kit.sweep.study.summary import SweepSummary, TrialSummary

# A study may be damaged, or not be one of this program
TRIAL_SUMMARY, SWEEP_SUMMARY = TypeAdapter(TrialSummary), TypeAdapter(SweepSummary)


def read_summary(name: str, options: Sweep, storage: BaseStorage) -> SweepSummary:
    """The summary of the study `name`. Raises KitError if there is none."""
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        raise KitError(f"no sweep of the experiment {name!r} has begun in this storage") from None
    if study.user_attrs.get("plan") != SearchPlan.kind or study.user_attrs.get("format") != FORMAT:
        raise KitError(
            f"the study {name!r} in this storage is not a sweep, is one of another version of nanogpt-kit, or is just "
            "being created"
        )
    with report_damage(name, "sweep.storage"):
        return summarize_study(study, options, confirmation_study(name, storage))


def summarize_study(study: optuna.Study, options: Sweep, confirmation: optuna.Study | None) -> SweepSummary:
    """Raises KitError, or another error, if the study's attributes are of other types than a sweep's."""
    attributes = study.user_attrs
    train = attributes["experiment"]["train"]
    tokens = int(attributes["trial_tokens"])
    trials = study.get_trials(deepcopy=False)
    unit = report_unit(tokens)
    fresh = confirmation.get_trials(deepcopy=False) if confirmation else []
    began_with = attributes.get("sweep", {})  # the file may have been changed since
    options = options.model_copy(update={key: began_with[key] for key in COMPARABLE if key in began_with})
    return SWEEP_SUMMARY.validate_python(
        {
            "name": study.study_name,
            "options": options,
            "count": attributes.get("count", len(trials)),
            "trials": tuple(summarize_trial(trial, unit) for trial in trials if trial.state != TrialState.WAITING),
            "confirmed": tuple(confirmed_trials(fresh, options.direction)),
            "fresh_seeds": Counter(
                run.trial for run in {fresh_seed(trial) for trial in fresh if trial.state.is_finished()}
            ),
            "space": attributes["space"],
            "trial_tokens": tokens,
            "seed": train["seed"],
            "nproc": attributes.get("nproc", 1),
            "branches": tuple({"params": params} for params in attributes.get("branches", ())),
            "trial_steps": attributes.get("trial_steps", ()),
            "confirmation": confirmation_state(confirmation) if confirmation else None,
            "not_comparable": NotComparable.of_study(study).reasons,
        }
    )


def confirmation_study(name: str, storage: BaseStorage) -> optuna.Study | None:
    """The study of the runs with fresh seeds; None if there is none of that name that is a confirmation."""
    try:
        study = optuna.load_study(study_name=name + ConfirmationPlan.suffix, storage=storage)
    except KeyError:
        return None
    return study if study.user_attrs.get("plan") == ConfirmationPlan.kind else None


def summarize_trial(trial: FrozenTrial, unit: int) -> TrialSummary:
    """`unit` is that of the steps of its reports, in tokens."""
    result, owner = TrialResult.of(trial), Owner.of(trial)
    values: dict[str, Any] = {
        "index": trial.number,
        "state": {"FAIL": "failed"}.get(trial.state.name, trial.state.name.lower()),
        "config": {name.split("@")[0]: value for name, value in trial.params.items()},
        "params": dict(trial.params),
        "value": trial.value,
        "reports": tuple((step * unit, value) for step, value in sorted(trial.intermediate_values.items())),
        "folder": owner.folder if owner else "",
    }
    if result is not None:
        for name in ("cause", "reason", "step", "tokens", "seconds", "parameters"):
            values[name] = getattr(result, name)
        values["values"] = tuple(value for value in result.values if value is not None)  # a run that has ended early
    summary = TRIAL_SUMMARY.validate_python(values)
    if summary.state == "running" and owner:
        if Ownership(Path(owner.folder)).state(trial) is OwnershipState.LOST:
            summary = replace(summary, state="interrupted")
        return add_progress(summary)
    return summary


def add_progress(summary: TrialSummary) -> TrialSummary:
    """Adds the progress of a trial that has not ended, if its runs have folders on this machine."""
    paths = sorted(Path(summary.folder).glob(f"trial-{summary.index:04d}-s*")) if summary.folder else []
    runs = [RunFolder(path) for path in paths]
    if not runs:
        return summary
    newest = [record for run in runs for record in list(metrics.read_metrics(run.metrics))[-1:]]
    is_running = any(run.status().state == "running" for run in runs)
    return replace(
        summary,
        state="running" if is_running else "interrupted",
        step=newest[-1]["step"] if newest else 0,
        tokens=sum(record.get("tokens", 0) for record in newest),
        seconds=sum(record.get("seconds", 0.0) for record in newest),
    )
