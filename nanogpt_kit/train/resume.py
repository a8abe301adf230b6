"""Finds the run to resume, and checks that it may continue with the requested options."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from nanogpt_kit.checkpoint import store
from nanogpt_kit.checkpoint.manifest import step_of
from nanogpt_kit.core.errors import Busy, Fault, KitError, dotted
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.layers import Layers
from nanogpt_kit.core.made_with import Unresolved
from nanogpt_kit.core.options import changeable_options, leaves
from nanogpt_kit.core.other_versions import recorded_by
from nanogpt_kit.core.override_text import override_text
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.sections import Train
from nanogpt_kit.runs import folder as runs
from nanogpt_kit.runs.find import find_run
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.recorded_experiment import load_recorded, made_with_of
from nanogpt_kit.runs.resume_command import new_run_command, resume_command
from nanogpt_kit.runs.status import Status
from nanogpt_kit.system.writing import write_atomically
from nanogpt_kit.train.accepted_versions import check_versions
from nanogpt_kit.train.branch import BranchPoint
from nanogpt_kit.train.extension import MoreTraining, extension_hint, first_changed_step, ways_to_extend

logger = logging.getLogger(__name__)

BUDGETS = ("train.steps", "train.max_tokens", "train.max_seconds")  # on which the multipliers of schedules may depend
CHECKPOINT_OF_RUN = re.compile(r"(.+)@([0-9]{1,18})", re.DOTALL)  # RUN@STEP


@dataclass(frozen=True)
class RunToResume:
    """A run to resume, and its experiment; with a step, a new run begins from that checkpoint of it."""

    experiment: Experiment
    folder: RunFolder
    step: int | None = None

    @property
    def branch(self) -> BranchPoint | None:
        return None if self.step is None else BranchPoint(self.folder, self.step)

    def __str__(self) -> str:
        """The reference that finds it again."""
        return str(self.folder) if self.step is None else f"{self.folder}@{self.step}"


def load_run_to_resume(
    requested: Experiment, name: str, trust_code: bool, accept_versions: bool = False
) -> RunToResume:
    """The run to resume, and its experiment, with the options that may change taken from `requested`.

    `name` is a run, which may have finished with fewer steps than `requested` has, or RUN@STEP; "" is the newest
    unfinished run of the experiment. Raises KitError where there is none, where it is done, where an option that
    decides the training has changed, or, unless `accept_versions`, where a plugin has another version than the run.
    """
    folder, step = (
        find_run_or_checkpoint(name) if name else (newest_unfinished(requested.name, requested.train.seed), None)
    )
    folder.check_format()
    status = folder.status()
    if status.cause == "unreadable":
        logger.info("%s: %s; it continues from its newest checkpoint", folder, status.reason)
    if status.imported:
        raise KitError(f"{folder} was imported, not trained; model.init_from={folder} starts from it")
    folder.check_inside()
    before, layers = load_recorded_experiment(folder, trust_code)
    if step is not None:
        BranchPoint(folder, step).check(before, requested)
    check_differences(folder, before, requested, step)
    if step is None and is_done(status, requested):
        error = KitError(f"{folder} is finished: {status.step:,} steps")
        error.add_note(extension_hint(folder, before, status))
        raise error
    for path, source in requested.component_sources.items():
        copy = folder.path / "components" / path.name
        if copy.exists() and copy.read_bytes() != source:
            logger.info("%s has changed since the run started, which continues with its copy, %s", path, copy)
        elif step is None and not copy.exists():  # such as a callback that this run did not have before
            copy.parent.mkdir(exist_ok=True)
            write_atomically(copy, source)
            layers.values["components"].append(f"components/{path.name}")
    values = requested.resolved()
    for section in changeable_options(Experiment):
        if section != "components":  # its files were copied above
            layers.values[section] = values[section]
    for key in changeable_options(Train):
        value = values["train"].get(key)
        layers.values["train"].pop(key, None)
        if value is not None:
            layers.values["train"][key] = value
    layers.made_with = made_with_of(folder, step=step)  # all that continues is needed
    experiment = Experiment.of(layers, folder.path, trust_code)
    check_versions(experiment, accept_versions)
    return RunToResume(experiment, folder, step)


def find_run_or_checkpoint(name: str) -> tuple[RunFolder, int | None]:
    """The run that a reference stands for, and the step where it names one; of an experiment its newest unfinished run.

    Raises KitError where there is none.
    """
    found = find_run(name)
    if found.step is not None or not found.runs or found.is_best:
        return found.folder, found.step
    unfinished = (folder for folder in reversed(found.runs) if folder.status().state not in ("running", "finished"))
    return next(unfinished, found.runs[-1]), None


def is_branch(name: str) -> bool:
    """Whether this is RUN@STEP, with which a new run begins."""
    return CHECKPOINT_OF_RUN.fullmatch(name) is not None


def has_done_run(folder: RunFolder, requested: Experiment, trust_code: bool = False) -> bool:
    """Whether the folder contains the requested run, and it is done. Raises KitError where it contains another run."""
    status = folder.status()
    if not folder.experiment.exists() or status.imported or not is_done(status, requested):
        return False
    check_differences(folder, load_recorded_experiment(folder, trust_code)[0], requested)
    return True


def load_recorded_experiment(folder: RunFolder, trust_code: bool) -> tuple[Experiment, Layers]:
    """The experiment that a run has recorded. Raises KitError where it contains code that was never run here."""
    experiment = load_recorded(folder, (), trust_code, needs=())  # what continues is resolved once it is known
    return experiment, experiment.layers.copy()


def newest_unfinished(name: str, seed: int | None = None) -> RunFolder:
    """The newest unfinished run of the experiment of that name; of the seed, where one is given that has runs.

    A finished run is never continued unless it is named. Raises KitError where there is no unfinished run, Busy where
    another process uses the only one.
    """
    parent = runs.runs_root() / name
    folders = runs.runs_of_experiment(parent)
    candidates = runs_of_seed(folders, seed) or folders
    statuses: dict[RunFolder, Status] = {}
    for folder in reversed(candidates):
        statuses[folder] = status = folder.status()
        if status.state not in ("running", "finished"):
            return folder
    busy = next((folder for folder, status in statuses.items() if status.state == "running"), None)
    if busy is not None:
        raise Busy(f"{parent} has no unfinished run to resume but {busy}, which is being used by another process")
    trained = [folder for folder, status in statuses.items() if not status.imported]
    finished = "; all are finished" if trained else ""
    error = KitError(f"{parent} has no unfinished run to resume{finished}")
    if trained:
        error.add_note(f"to train the newest one longer: {resume_command(trained[0], '--extend', 'STEPS')}")
    raise error


def runs_of_seed(folders: Sequence[RunFolder], seed: int | None) -> list[RunFolder]:
    return [folder for folder in folders if seed is not None and folder.seed() == seed]


def is_done(status: Status, requested: Experiment) -> bool:
    """Whether a run with this status has used up the budgets of `requested`."""
    if status.state != "finished":
        return False
    if status.seconds >= (requested.train.max_seconds or math.inf):
        return True
    return status.ended_by != "max_seconds" and status.total_steps >= requested.total_steps


def check_differences(folder: RunFolder, before: Experiment, requested: Experiment, step: int | None = None) -> None:
    """Raises KitError with a fault for each changed option that decides the training, and notes with what works.

    With a step, only the steps up to it have to be the same.
    """
    faults, changed, other_options = [], [], []
    missing = {f"{dotted(key)}.use": part.reason for key, part in before.parts() if isinstance(part, Unresolved)}
    changeable_train = {f"train.{option}" for option in changeable_options(Train)}
    for key, (then, now) in before.differences(requested).items():
        section = key.partition(".")[0]
        if key in BUDGETS:
            reason = budget_cannot_change(folder, before, requested, step)
        elif section in changeable_options(Experiment) or key in changeable_train:
            continue
        else:
            reason = missing.get(key) or "this cannot change when a run is resumed"
            other_options.append(key)
        if reason:
            parts = tuple(int(part) if part.isdecimal() else part for part in key.split("."))
            faults.append(Fault(f"{now!r} now, {then!r} in {folder}; {reason}", key, requested.location(parts)))
            changed.append(key)
    if not faults:
        return
    error = KitError(*recorded_by(before).with_versions(faults, before.layers.values, Registry.installed()))
    is_longer = requested.total_steps > before.total_steps or has_more_seconds(before, requested)
    if is_longer and not other_options:
        length = steps_taken(folder) if has_more_seconds(before, requested) else before.total_steps
        error.add_note(ways_to_extend(folder, before, MoreTraining.of(before, requested), length))
    else:
        error.add_note(f"continue with the run's own settings: {resume_command(folder)}")
        error.add_note(new_run_note(folder, requested, changed))
    raise error


def has_more_seconds(before: Experiment, requested: Experiment) -> bool:
    return (before.train.max_seconds or math.inf) < (requested.train.max_seconds or math.inf)


def new_run_note(folder: RunFolder, requested: Experiment, keys: Sequence[str]) -> str:
    """How a new run is trained with the requested options."""
    if requested.layers.location(()) != str(folder.experiment):
        return "train a new run: the same command without --resume, or with another folder after --into"
    values = {dotted(key): value for key, value in leaves(requested.resolved())}
    changed = [f"{key}={override_text(values[key])}" for key in keys if key in values]
    return f"train a new run: {new_run_command(folder, *changed)}"


def budget_cannot_change(folder: RunFolder, before: Experiment, requested: Experiment, step: int | None) -> str | None:
    """Why a budget cannot change; None where the schedules give the steps taken the same multipliers."""
    if step is None and requested.total_steps < before.total_steps:
        return "steps may only grow"
    taken = min(before.total_steps, steps_taken(folder) if step is None else step)
    found = first_changed_step(before, requested, taken, folder)
    return found[1] if found else None


def steps_taken(folder: RunFolder) -> int:
    """The step of the newest checkpoint: steps after it are taken again."""
    return max(map(step_of, store.list_checkpoints(folder.checkpoints)), default=0)


def find_done_or_unfinished(requested: Experiment) -> tuple[RunFolder | None, str | None]:
    """Of the runs with the seed of `requested`: (one that is done, None), else (None, the unfinished one to resume);
    (None, None) where there are no such runs.

    Raises KitError where all are finished with fewer steps than requested, Busy where another process uses one.
    """
    mine = runs_of_seed(runs.runs_of_experiment(runs.runs_root() / requested.name), requested.train.seed)
    for folder in reversed(mine):
        if is_done(folder.status(), requested):
            return folder, None
    return None, str(newest_unfinished(requested.name, requested.train.seed)) if mine else None
