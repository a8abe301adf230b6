"""A whole comparison: check the arms, answer from the ledger, run what is missing, judge and record."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from nanogpt_kit.comparison.comparability import check_arms
from nanogpt_kit.comparison.comparison import make_comparison
from nanogpt_kit.comparison.ledger import finished_runs
from nanogpt_kit.comparison.measurement import measure_run
from nanogpt_kit.comparison.numbers import count_text
from nanogpt_kit.comparison.question import Arm, Question
from nanogpt_kit.comparison.record import Comparison, Measurement
from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.overrides import COMMAND_LINE
from nanogpt_kit.core.sections import Sweep
from nanogpt_kit.data.source_check import run_checks
from nanogpt_kit.launch.slots import MachineSlot, allocate_slots, hold_slots
from nanogpt_kit.runs.files import check_inside, check_writable, git_ignored_folder
from nanogpt_kit.runs.folder import RunFolder, runs_root
from nanogpt_kit.sweep.study.cells import Cell, Key, named_runs, required_cells
from nanogpt_kit.sweep.study.comparison import ComparisonPlan
from nanogpt_kit.sweep.study.storage import check_storage_form, open_storage, report_storage_failure
from nanogpt_kit.sweep.study.study import Study
from nanogpt_kit.sweep.work.run_study import run_study
from nanogpt_kit.train.before_data import check_without_running
from nanogpt_kit.train.machine import choices_of_study
from nanogpt_kit.train.precision import choose_device
from nanogpt_kit.train.stop import StopSignals

logger = logging.getLogger(__name__)

Answers = Mapping[Key, Measurement]


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

    The first arm of `question` is the base. With `again` all is run again, except what the user named. `command`
    continues it. Raises KitError before anything is started, RunFailed if the base fails or the storage does, and
    KeyboardInterrupt if asked to stop; the same call continues then.
    """
    started = time.time()
    with report_as_options():
        cells = check_comparison(question, seeds, workers, storage, nproc)
        answers = {} if again else find_answers(question, cells)
        missing = [cell for cell in cells if cell.key not in answers]
        if not missing:
            return make_comparison(question, measurements(question, seeds, answers), command, started)
        options = comparison_options(question, workers, storage)
        plan = ComparisonPlan(question, missing, options, again, nproc)
        device = choose_device(question.base.experiment.train.device)
        with hold_slots(workers, device, nproc) as slots, report_failure_of(storage):
            arms = [arm.experiment for arm in question.arms]
            runs = [Path(one.run) for one in answers.values()]
            study = open_comparison(plan, partial(choices_of_study, arms, nproc, slots[0].threads, runs))
            run_missing(study, slots, command)
            queued = study.trials()
            own = {cell.key: plan.measurement(cell, queued, study.folder) for cell in missing}
        found = measurements(question, seeds, {**answers, **own})
        comparison = make_comparison(question, found, command, started)
        with report_failure_of(storage):
            plan.end(study.optuna_study)
        return comparison


def comparison_options(question: Question, workers: int, storage: str) -> Sweep:
    """What a study and its controller read of [sweep]; nothing is varied."""
    metric, direction = question.metric, question.direction
    return Sweep(metric=metric, direction=direction, storage=storage, workers=workers, space={})


def open_comparison(
    plan: ComparisonPlan, measure: Callable[[], Mapping[str, str]] = dict[str, str]
) -> Study[ComparisonPlan]:
    folder = plan.question.folder().absolute()
    check_writable(folder)
    with git_ignored_folder(runs_root()):
        folder.mkdir(parents=True, exist_ok=True)
    check_inside(folder, besides=plan.run_folders)  # those folders are checked by their runs
    return Study(plan, open_storage(plan.options.storage, folder), folder, measure)


def run_missing(study: Study[ComparisonPlan], slots: Sequence[MachineSlot], command: str) -> None:
    """Runs what has not ended. Raises KeyboardInterrupt with a note of the command that continues."""
    folder = study.plan.question.folder()
    try:
        with StopSignals() as stop:
            study.open()
            missing = len(study.unfinished())
            logger.info("%s: %s to do, in %s", study.plan.question.kind, count_text(missing, "run"), folder)
            if missing:
                run_study(study, slots, stop)
    except KeyboardInterrupt as error:
        remedy = f"; continue with: {command}" if command else ""
        error.add_note(f"stopped; the comparison is saved in {folder}{remedy}")
        raise


# Checks


def check_comparison(question: Question, seeds: Sequence[int], workers: int, storage: str, nproc: int) -> list[Cell]:
    """The runs that the comparison needs besides those that the user named.

    Raises KitError with all that a run of an arm would refuse before its data is touched, if this machine has too
    little for the workers, and if the arms do not compare.
    """
    device = choose_device(question.base.experiment.train.device)
    checks: list[Callable[[], object]] = [
        lambda: check_storage_form(storage),
        lambda: allocate_slots(workers, device, nproc),
        *(check_of_arm(arm, nproc) for arm in question.arms if not set(seeds) <= named_runs(arm).keys()),
    ]
    run_checks(checks)
    check_arms(question)  # prepares their data
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
        raise type(error)(*map(as_option, error.faults)) from None


def as_option(fault: Fault) -> Fault:
    if not fault.key.startswith("sweep."):
        return fault
    return replace(fault, key=fault.key.replace("sweep.", "--", 1), location=COMMAND_LINE)


def report_failure_of(storage: str) -> AbstractContextManager[None]:
    return report_storage_failure("--storage", storage, "; the same command continues when it works again")


# Measurements


def find_answers(question: Question, cells: Sequence[Cell]) -> dict[Key, Measurement]:
    """The cells that finished runs answer, wherever these are below the runs folder."""
    finished: dict[str, dict[int, RunFolder]] = {}
    answers = {}
    for cell in cells:
        if cell.configuration not in finished:
            finished[cell.configuration] = finished_runs(cell.configuration, cell.code, cell.dataset)
        run = finished[cell.configuration].get(cell.seed)
        if run is not None:
            answers[cell.key] = measure_run(run, question.metric, is_reused=not is_own(question, run))
    return answers


def is_own(question: Question, run: RunFolder) -> bool:
    """Whether the comparison itself made the run, at an earlier call."""
    return run.path.absolute().is_relative_to(question.folder().absolute())


def measurements(question: Question, seeds: Sequence[int], answers: Answers) -> list[Measurement]:
    """Those of all arms and seeds: of named runs, and `answers` of the others."""
    found = []
    for index, arm in enumerate(question.arms):
        configuration, named = arm.configuration, named_runs(arm)
        for seed in dict.fromkeys(seeds):
            if seed in named:
                found.append(measure_run(named[seed], question.metric, index, not is_own(question, named[seed])))
            else:
                found.append(answers[configuration, seed].model_copy(update={"arm": index}))
    return found
