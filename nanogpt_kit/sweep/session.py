"""A whole sweep: check the space, open the study, run its trials, confirm the best, write the results."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import optuna

from nanogpt_kit.comparison.numbers import count_text
from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.sections import Sweep
from nanogpt_kit.launch.slots import MachineSlot, allocate_slots, hold_slots
from nanogpt_kit.runs.files import check_inside, check_writable, git_ignored_folder
from nanogpt_kit.runs.folder import runs_root
from nanogpt_kit.sweep.report.best import write_best_experiment
from nanogpt_kit.sweep.report.report import write_report
from nanogpt_kit.sweep.space.endpoints import check_endpoints
from nanogpt_kit.sweep.space.parameters import Config
from nanogpt_kit.sweep.space.space import Space
from nanogpt_kit.sweep.study.allocation import check_allocation
from nanogpt_kit.sweep.study.confirmation import ConfirmationPlan, fresh_seed
from nanogpt_kit.sweep.study.records import JudgedSeeds
from nanogpt_kit.sweep.study.sampler import check_sampler_package
from nanogpt_kit.sweep.study.search import SearchPlan
from nanogpt_kit.sweep.study.seed_values import current_look
from nanogpt_kit.sweep.study.storage import STORAGE_KEY, check_storage_form, open_storage, report_storage_failure
from nanogpt_kit.sweep.study.stored_summary import confirmation_study, read_summary
from nanogpt_kit.sweep.study.stored_sweep import write_sweep_record
from nanogpt_kit.sweep.study.study import Study
from nanogpt_kit.sweep.study.summary import ENDED, SweepSummary, sweep_folder
from nanogpt_kit.sweep.study.trial_comparability import store_incomparable, store_uneven_budgets
from nanogpt_kit.sweep.study.verdict_notes import trials_text
from nanogpt_kit.sweep.study.warmup import most_compared
from nanogpt_kit.sweep.work.budget import Budget, SearchBudget, check_token_budget
from nanogpt_kit.sweep.work.outcome import Outcome
from nanogpt_kit.sweep.work.run_study import run_study
from nanogpt_kit.sweep.work.trial import TrialProcess
from nanogpt_kit.sweep.work.warnings_at_start import warnings_at_start
from nanogpt_kit.sweep.work.watcher import TrialWatcher
from nanogpt_kit.train.before_data import check_without_running
from nanogpt_kit.train.machine import choices_of_study
from nanogpt_kit.train.precision import choose_device
from nanogpt_kit.train.stop import StopSignals

logger = logging.getLogger(__name__)


def run_sweep(base: Experiment, nproc: int = 1) -> SweepSummary:
    """Starts or continues the sweep of an experiment. Each trial's run has `nproc` processes.

    Raises KitError before anything is started, RunFailed if trials fail alike or the storage fails, KeyboardInterrupt
    if asked to stop; the same call continues then.
    """
    space, first = check_sweep(base, nproc)
    check_without_running(base, nproc)
    remedy = "; the same command continues when it works again"
    with (
        hold_slots(space.options.workers, choose_device(base.train.device), nproc) as slots,
        report_storage_failure(STORAGE_KEY, space.options.storage, remedy),
    ):
        return run_in_slots(space, first, slots, nproc)


def run_in_slots(space: Space, first: Config, slots: Sequence[MachineSlot], nproc: int) -> SweepSummary:
    """Runs the sweep in these slots; `first` are the values of trial 0."""
    base = space.base
    folder = sweep_folder(base.name).absolute()
    check_writable(folder)
    with git_ignored_folder(runs_root()):
        folder.mkdir(parents=True, exist_ok=True)
    check_inside(folder, besides="trial-*")  # those folders are checked by their runs
    storage = open_storage(space.options.storage, folder)
    tried = [base, space.experiment(first)]
    measure = partial(choices_of_study, tried, nproc, slots[0].threads)
    search = Study(SearchPlan(space, first, nproc), storage, folder, measure)
    with StopSignals() as stop:
        search.open()
        write_sweep_record(base.name, space.options, folder)
        compared = most_compared(space.options, search.count, len(search.plan.branches))
        for warning in warnings_at_start(space.options, space.trial_tokens, search.plan.trial_steps, compared):
            logger.warning("warning: %s", warning)
        logger.info("sweep %s: %d trials, %s, in %s", base.name, search.count, space.options.sampler, folder)
        try:
            best = summarize_sweep(search).best()
            run_study(search, slots, stop, [BestWriter(search)], best, search_budget(search))
            store_incomparable(search.optuna_study, space, judged_trials(summarize_sweep(search)))
            if space.options.confirm:
                confirm_trials(search, slots, stop)
            elif space.options.seeds > 1:
                store_uneven_budgets(search.optuna_study, [(trial.number, trial) for trial in search.trials()])
        finally:
            summary = write_results(search)
    return summary


def search_budget(search: Study[SearchPlan]) -> SearchBudget:
    space = search.plan.space
    confirmation = confirmation_study(space.base.name, search.storage)  # an earlier one, before sweep.trials was raised
    return SearchBudget(search, confirmation.get_trials if confirmation else list)


def confirm_trials(search: Study[SearchPlan], slots: Sequence[MachineSlot], stop: StopSignals) -> None:
    """Runs the best trials, trial 0 and the best of each branch with fresh seeds, and records that they are judged."""
    plan = ConfirmationPlan(search.plan.space, search.trials, search.plan.nproc)
    if not plan.chosen:
        return
    confirmation = Study(plan, search.storage, search.folder, search.machine_choices)
    confirmation.open()
    left = len(confirmation.unfinished())
    logger.info("confirming %s: %s with fresh seeds", trials_text(sorted(plan.chosen)), count_text(left, "run"))
    run_study(confirmation, slots, stop, budget=Budget(confirmation, search.trials))
    runs = [(fresh_seed(trial).trial, trial) for trial in confirmation.trials()]
    store_uneven_budgets(search.optuna_study, runs)
    record_look(summarize_sweep(search), confirmation.optuna_study)


def record_look(summary: SweepSummary, confirmation: optuna.Study) -> None:
    """Stores with how many seeds the trials were judged: more of them later is another look."""
    look, judged = current_look(summary), JudgedSeeds.of_study(confirmation)
    if look is not None and look not in judged.looks and not summary.is_running:
        JudgedSeeds(looks=(*judged.looks, look)).store_in(confirmation)


class BestWriter(TrialWatcher):
    """Writes best.toml as soon as there is a better trial, so that a killed sweep leaves one, too."""

    def __init__(self, study: Study[SearchPlan]) -> None:
        self.study = study

    def trial_ended(self, process: TrialProcess, outcome: Outcome) -> None:
        if outcome.value is not None:
            write_best_experiment(self.study, summarize_sweep(self.study))


# Checks


def check_sweep(base: Experiment, nproc: int = 1) -> tuple[Space, Config]:
    """The space, and the values of trial 0, whose runs have `nproc` processes.

    Raises KitError with all that is wrong with the sweep.
    """
    options = sweep_options(base)
    check_sampler_package(options, base.location(("sweep", "sampler")))
    check_machine(base, options, nproc)
    space = Space(base)
    check_allocation(space)
    first = check_endpoints(space, nproc)
    check_token_budget(space)
    if options.sampler == "grid" and space.points() is None:
        endless = next((one for one in space.parameters if one.values is None), space.parameters[0])
        message = f"grid requires a finite space, and this is {endless}; add a step, use a choice, or sampler = qmc"
        raise KitError(Fault(message, f"sweep.space.{endless.key}", endless.location))
    return space, first


def sweep_options(base: Experiment) -> Sweep:
    if base.sweep is None:
        raise KitError(f"{base.location(())}: there is no [sweep] table, so there is nothing to vary")
    return base.sweep


def check_machine(base: Experiment, options: Sweep, nproc: int) -> None:
    """Raises KitError if this machine has too little for the sweep's workers, or if its storage has an unknown form."""
    faults: list[Fault] = []
    for check in (
        lambda: allocate_slots(options.workers, choose_device(base.train.device), nproc),
        lambda: check_storage_form(options.storage),
    ):
        try:
            check()
        except KitError as error:
            faults += [replace(fault, location=base.location(tuple(fault.key.split(".")))) for fault in error.faults]
    if faults:
        raise KitError(*faults)


# Results


def judged_trials(summary: SweepSummary) -> list[int]:
    """The indices of the trials that a verdict is about."""
    if summary.options.confirm:
        return summary.to_confirm()
    return [trial.index for trial in summary.complete_trials()] if summary.options.seeds > 1 else []


def summarize_sweep(study: Study[SearchPlan]) -> SweepSummary:
    space = study.plan.space
    return read_summary(space.base.name, space.options, study.storage)


def write_results(search: Study[SearchPlan]) -> SweepSummary:
    """Writes best.toml and report.html from the results so far."""
    summary = summarize_sweep(search)
    write_best_experiment(search, summary)
    if any(trial.state in ENDED for trial in summary.trials):
        write_report(summary, search.optuna_study, search.folder / "report.html")
    return summary


def read_sweep(base: Experiment) -> tuple[SweepSummary, optuna.Study, Path]:
    """The results of an experiment's sweep so far, its study and its folder. Nothing is changed."""
    options = sweep_options(base)
    folder = sweep_folder(base.name).absolute()
    storage = open_storage(options.storage, folder, for_reading=True)
    with report_storage_failure(STORAGE_KEY, options.storage):
        summary = read_summary(base.name, options, storage)
        return summary, optuna.load_study(study_name=base.name, storage=storage), folder
