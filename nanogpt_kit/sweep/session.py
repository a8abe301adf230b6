"""A whole sweep: check the space, open the study, work at it, confirm the best, write down what was found."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nanogpt_kit.core.errors import Fault, KitError, RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.sections import Sweep
from nanogpt_kit.launch.slots import MachineSlot, allocate_slots, hold_slots
from nanogpt_kit.runs.files import check_inside, check_writable, git_ignored_folder
from nanogpt_kit.runs.folder import runs_root
from nanogpt_kit.runs.secrets import hide_password
from nanogpt_kit.sweep.report import report
from nanogpt_kit.sweep.report.best import write_best
from nanogpt_kit.sweep.space import endpoints
from nanogpt_kit.sweep.space.parameters import Config
from nanogpt_kit.sweep.space.space import Space
from nanogpt_kit.sweep.study import summary
from nanogpt_kit.sweep.study.plan import Confirmation
from nanogpt_kit.sweep.study.sampler import check_packages
from nanogpt_kit.sweep.study.storage import cause, check_form, has_failed, open_storage
from nanogpt_kit.sweep.study.study import Study
from nanogpt_kit.sweep.study.summary import Row, Summary, sweep_folder
from nanogpt_kit.sweep.work.controller import Controller, HParams
from nanogpt_kit.sweep.work.progress import Board
from nanogpt_kit.sweep.work.trial import Outcome, TrialProcess
from nanogpt_kit.train.precision import choose_device
from nanogpt_kit.train.stop import StopSignals

logger = logging.getLogger(__name__)


def sweep(base: Experiment, nproc: int = 1) -> Summary:
    """Begins the sweep of an experiment, or goes on with it. Each trial's run has `nproc` processes.

    Raises KitError before anything is started, RunFailed where trials fail alike, KeyboardInterrupt where it was asked
    to stop; the same call goes on then.
    """
    space, first = checked(base, nproc)
    with hold_slots(space.options.workers, choose_device(base.train.device), nproc) as slots:
        try:
            return sweep_with(space, first, slots, nproc)
        except Exception as error:
            if not has_failed(error):
                raise
            storage = space.options.storage
            reason = f"{hide_password(storage)} has failed: {cause(error, storage)}"
            raise RunFailed(f"sweep.storage: {reason}; the same command continues when it is there again") from None


def sweep_with(space: Space, first: Config, slots: Sequence[MachineSlot], nproc: int) -> Summary:
    base = space.base
    folder = sweep_folder(base.name).absolute()
    check_writable(folder)
    with git_ignored_folder(runs_root()):
        folder.mkdir(parents=True, exist_ok=True)
    check_inside(folder, besides="trial-*")  # each of those is checked by its own run
    storage = open_storage(space.options.storage, folder)
    study = Study(space, storage, folder, nproc)
    with StopSignals() as stop:
        study.open(first)
        logger.info("sweep %s: %d trials, %s, in %s", base.name, study.count, space.options.sampler, folder)
        try:
            work_at(study, slots, stop, nproc, summarize(study).best())
            if space.options.confirm:
                confirmation = Confirmation(study, storage, folder)
                confirmation.confirm()
                logger.info("the best once more: %d runs with fresh seeds", len(confirmation.wanted))
                work_at(confirmation, slots, stop, nproc, None)
        finally:
            found = write_down(study)
    return found


def checked(base: Experiment, nproc: int = 1) -> tuple[Space, Config]:
    """The space, and the values of trial 0, whose runs have `nproc` processes.

    Raises KitError with all that is wrong with the sweep.
    """
    if base.sweep is None:
        raise KitError(f"{base.location(())}: there is no [sweep] table, so there is nothing to try")
    check_packages(base.sweep, base.location(("sweep", "sampler")))
    check_machine(base, base.sweep, nproc)
    space = Space(base)
    first = endpoints.check(space, nproc)
    if base.sweep.sampler == "grid" and space.points() is None:
        endless = next((one for one in space.parameters if one.values is None), space.parameters[0])
        message = f"grid wants a finite space, and this is {endless}; give it a step or a choice, or take qmc"
        raise KitError(Fault(message, f"sweep.space.{endless.key}", endless.location))
    return space, first


def check_machine(base: Experiment, options: Sweep, nproc: int = 1) -> None:
    """Raises KitError if this machine has too little for the sweep's workers, or if its storage has an unknown form."""
    faults: list[Fault] = []
    for look in (
        lambda: allocate_slots(options.workers, choose_device(base.train.device), nproc),
        lambda: check_form(options.storage),
    ):
        try:
            look()
        except KitError as error:
            faults += [replace(fault, location=base.location(tuple(fault.key.split(".")))) for fault in error.faults]
    if faults:
        raise KitError(*faults)


def work_at(study: Study, slots: Sequence[MachineSlot], stop: StopSignals, nproc: int, known: Row | None) -> None:
    with Board(study, known, ranks=not isinstance(study, Confirmation)) as board:
        Controller(study, slots, stop, nproc, (HParams(study), board, BestKept(study))).run()


class BestKept:
    """Writes best.toml as soon as there is a better trial, so that a killed sweep leaves one, too."""

    def __init__(self, study: Study) -> None:
        self.study = study

    def ended(self, work: TrialProcess, outcome: Outcome) -> None:
        if outcome.value is not None and not isinstance(self.study, Confirmation):
            write_best(self.study, summarize(self.study))


def summarize(study: Study) -> Summary:
    assert study.base.sweep is not None, "there is a [sweep] table"
    return summary.read(study.base.name, study.base.sweep, study.storage)


def write_down(study: Study) -> Summary:
    """best.toml and report.html, of what is known by now."""
    found = summarize(study)
    write_best(study, found)
    if any(row.state in ("complete", "pruned", "failed") for row in found.rows):
        report.write(found, study.study, study.folder / "report.html")
    return found


def read(base: Experiment) -> tuple[Summary, Any, Path]:
    """What the sweep of an experiment has found so far, with its study and folder. Nothing is changed."""
    import optuna

    if base.sweep is None:
        raise KitError(f"{base.location(())}: there is no [sweep] table")
    folder = sweep_folder(base.name).absolute()
    named = base.sweep.storage
    storage = open_storage(named, folder, for_reading=True)
    try:
        found = summary.read(base.name, base.sweep, storage)
        return found, optuna.load_study(study_name=base.name, storage=storage), folder
    except Exception as error:
        if not has_failed(error):
            raise
        raise RunFailed(f"sweep.storage: {hide_password(named)} has failed: {cause(error, named)}") from None
