"""A whole comparison: check the arms, answer from the ledger, run what is missing, judge and record."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from nanogpt_kit.compare.comparability import check_arms
from nanogpt_kit.compare.comparison import make_comparison, write_comparison
from nanogpt_kit.compare.ledger import find_finished
from nanogpt_kit.compare.measurement import measure_run
from nanogpt_kit.compare.question import Arm, Question
from nanogpt_kit.compare.record import Comparison, Measurement
from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.sections import Sweep
from nanogpt_kit.launch.slots import MachineSlot, allocate_slots, hold_slots
from nanogpt_kit.runs.files import check_inside, check_writable, git_ignored_folder
from nanogpt_kit.runs.folder import RunFolder, runs_root
from nanogpt_kit.sweep.study.cells import Cell, named_runs, required_cells, seeded
from nanogpt_kit.sweep.study.comparison import ComparisonPlan
from nanogpt_kit.sweep.study.ownership import Ownership
from nanogpt_kit.sweep.study.storage import check_storage_form, open_storage, report_storage_failure
from nanogpt_kit.sweep.study.study import Study
from nanogpt_kit.sweep.work.run_study import run_study
from nanogpt_kit.train.before_data import check_without_running, run_checks
from nanogpt_kit.train.precision import choose_device
from nanogpt_kit.train.stop import StopSignals

logger = logging.getLogger(__name__)

Key = tuple[str, int]  # configuration and seed


def run_comparison(
    question: Question,
    seeds: Sequence[int],
    *,
    again: bool = False,
    workers: int = 1,
    storage: str = "journal",
    nproc: int = 1,
    command: str = "",
) -> Comparison:
    """Starts or continues a comparison: each arm with each of `seeds`, of which finished runs are not run again.

    The first arm of `question` is the base. `again`: what the user named is used, and all else is run anew. `command`
    continues it. Raises KitError before anything is started, RunFailed if the storage fails, KeyboardInterrupt if asked
    to stop; the same call continues then.
    """
    with report_as_options():
        cells = check_comparison(question, seeds, workers, storage, nproc)
        answers = {} if again else find_answers(cells)
        missing = [cell for cell in cells if (cell.configuration, cell.seed) not in answers]
        log_plan(question, cells, missing)
        options = Sweep(
            metric=question.metric, direction=question.direction, storage=storage, workers=workers, space={}
        )
        if not missing:
            return record_comparison(question, seeds, answers, command)
        device = choose_device(question.base.experiment.train.device)
        remedy = "; the same command continues when it works again"
        with hold_slots(workers, device, nproc) as slots, report_storage_failure("--storage", storage, remedy):
            plan = ComparisonPlan(question, missing, options, again, nproc)
            return run_in_slots(plan, seeds, slots, answers, command)


def run_in_slots(
    plan: ComparisonPlan,
    seeds: Sequence[int],
    slots: Sequence[MachineSlot],
    answers: dict[Key, Measurement],
    command: str,
) -> Comparison:
    """Runs the cells of a plan, and judges them with those that are answered."""
    question = plan.question
    folder = question.folder().absolute()
    check_writable(folder)
    with git_ignored_folder(runs_root()):
        folder.mkdir(parents=True, exist_ok=True)
    check_inside(folder, besides=plan.run_folders)  # those folders are checked by their runs
    study = Study(plan, open_storage(plan.options.storage, folder), folder)
    try:
        with StopSignals() as stop:
            study.open()
            run_study(study, slots, stop)
    except KeyboardInterrupt as error:
        again = f"; continue with: {command}" if command else ""
        error.add_note(f"stopped; the comparison is saved in {question.folder()}{again}")
        raise
    queued = study.trials()
    own = {(cell.configuration, cell.seed): plan.measurement(cell, queued) for cell in plan.cells}
    comparison = record_comparison(question, seeds, {**answers, **own}, command)
    plan.end(study.optuna_study)
    return comparison


# Checks


def check_comparison(question: Question, seeds: Sequence[int], workers: int, storage: str, nproc: int) -> list[Cell]:
    """The runs that the comparison needs besides those that the user named.

    Raises KitError with all that a run of an arm would refuse before its data is touched, and if this machine has too
    little for the workers.
    """
    check_arms(question)
    device = choose_device(question.base.experiment.train.device)
    checks: list[Callable[[], object]] = [
        lambda: check_storage_form(storage),
        lambda: allocate_slots(workers, device, nproc),
        *(check_of_arm(arm, nproc) for arm in question.arms if not named_runs(arm).keys() >= set(seeds)),
    ]
    run_checks(checks)
    return list(required_cells(question, seeds))


def check_of_arm(arm: Arm, nproc: int) -> Callable[[], object]:
    return lambda: check_without_running(arm.experiment, nproc)


@contextmanager
def report_as_options() -> Iterator[None]:
    """Reports a fault of sweep.workers or sweep.storage as one of --workers or --storage."""
    try:
        yield
    except KitError as error:
        if not any(fault.key.startswith("sweep.") for fault in error.faults):
            raise
        faults = [replace(fault, key=fault.key.replace("sweep.", "--", 1)) for fault in error.faults]
        raise type(error)(*faults) from None


# Answers


def find_answers(cells: Sequence[Cell]) -> dict[Key, RunFolder]:
    """The cells that finished runs answer, wherever these are below the runs folder."""
    found = {cell: find_finished(cell.configuration, cell.code, cell.seed, cell.dataset) for cell in cells}
    return {(cell.configuration, cell.seed): run for cell, run in found.items() if run is not None}


def record_comparison(
    question: Question, seeds: Sequence[int], runs: dict[Key, Measurement], command: str
) -> Comparison:
    raise NotImplementedError
