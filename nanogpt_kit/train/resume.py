"""Finds the run to resume, and checks that it may continue with the requested options."""

from __future__ import annotations

import logging
import math
import shlex
from collections.abc import Sequence

from nanogpt_kit.core.errors import Busy, Fault, KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.layers import Layers
from nanogpt_kit.core.options import changeable_options
from nanogpt_kit.core.sections import Train
from nanogpt_kit.runs import folder as runs
from nanogpt_kit.runs.find import find_run
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.status import Status
from nanogpt_kit.system.writing import write_atomically

logger = logging.getLogger(__name__)


def load_run_to_resume(requested: Experiment, name: str, trust_code: bool) -> tuple[Experiment, RunFolder]:
    """The run to resume, and its experiment, with the options that may change taken from `requested`.

    `name` is a run, which may have finished with fewer steps than `requested` has; "" is the newest unfinished run of
    the experiment. Raises KitError where there is none, where it is done, or where an option that decides the training
    has changed.
    """
    folder = run_by_reference(name) if name else newest_unfinished(requested)
    folder.check_format()
    status = folder.status()
    if status.cause == "unreadable":
        logger.info("%s: %s; it continues from its newest checkpoint", folder, status.reason)
    if status.imported:
        raise KitError(f"{folder} was imported, not trained; model.init_from={folder} starts from it")
    folder.check_inside()
    before, layers = load_recorded_experiment(folder, trust_code)
    check_differences(before, requested)
    if is_done(status, requested):
        raise KitError(f"{folder} is finished; train.steps=<more> continues it")
    for path, source in requested.component_sources.items():  # such as a callback that this run did not have before
        copy = folder.path / "components" / path.name
        if not copy.exists():
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
    return Experiment.of(layers, folder.path, trust_code), folder


def run_by_reference(name: str) -> RunFolder:
    """The run that a reference stands for; of an experiment its newest unfinished run, else its newest."""
    found = find_run(name)
    if found.step is not None:
        remedy = f"model.init_from={name} starts a new run from that checkpoint"
        raise KitError(f"{found.folder} continues from its newest checkpoint, not from step {found.step}; {remedy}")
    if not found.runs or found.is_best:
        return found.folder
    unfinished = (folder for folder in reversed(found.runs) if folder.status().state not in ("running", "finished"))
    return next(unfinished, found.runs[-1])


def has_done_run(folder: RunFolder, requested: Experiment, trust_code: bool = False) -> bool:
    """Whether the folder contains the requested run, and it is done. Raises KitError where it contains another run."""
    if not folder.experiment.exists() or not is_done(folder.status(), requested):
        return False
    check_differences(load_recorded_experiment(folder, trust_code)[0], requested)
    return True


def load_recorded_experiment(folder: RunFolder, trust_code: bool) -> tuple[Experiment, Layers]:
    """The experiment that a run has recorded. Raises KitError where it contains code that was never run here."""
    experiment = Experiment.load(folder.experiment, trust_code=trust_code)
    return experiment, experiment.layers.copy()


def newest_unfinished(requested: Experiment) -> RunFolder:
    """The newest unfinished run of the experiment; of the seed of `requested`, where that has runs.

    A finished run is never continued unless it is named. Raises KitError where there is no unfinished run, Busy where
    another process uses the only one.
    """
    parent = runs.runs_root() / requested.name
    folders = runs.runs_of_experiment(parent)
    candidates = runs_of_same_seed(folders, requested) or folders
    statuses: dict[RunFolder, Status] = {}
    for folder in reversed(candidates):
        statuses[folder] = status = folder.status()
        if status.state not in ("running", "finished"):
            return folder
    busy = next((folder for folder, status in statuses.items() if status.state == "running"), None)
    if busy is not None:
        raise Busy(f"{parent} has no unfinished run to resume but {busy}, which is being used by another process")
    trained = [folder for folder, status in statuses.items() if not status.imported]
    more = f"; all are finished. To continue one, name it: {options_to_extend(trained[0])}" if trained else ""
    raise KitError(f"{parent} has no unfinished run to resume{more}")


def runs_of_same_seed(folders: Sequence[RunFolder], requested: Experiment) -> list[RunFolder]:
    return [folder for folder in folders if folder.seed() == requested.train.seed]


def options_to_extend(folder: RunFolder) -> str:
    """The options of `run` that continue a finished run."""
    return f"--resume={shlex.quote(str(runs.relative_to_cwd(folder.path)))} train.steps=<more>"


def is_done(status: Status, requested: Experiment) -> bool:
    """Whether a run with this status has used up the budgets of `requested`."""
    if status.state != "finished":
        return False
    if status.seconds >= (requested.train.max_seconds or math.inf):
        return True
    return status.ended_by != "max_seconds" and status.total_steps >= requested.total_steps


def check_differences(before: Experiment, requested: Experiment) -> None:
    """Raises KitError with a fault for each changed option that decides the training."""
    faults = []
    changeable_train = {f"train.{option}" for option in changeable_options(Train)}
    for key, (then, now) in before.differences(requested).items():
        section = key.partition(".")[0]
        if key in ("train.steps", "train.max_tokens"):
            reason = steps_cannot_change(before, requested)
        elif section in changeable_options(Experiment) or key in changeable_train:
            continue
        else:
            reason = "this cannot change when a run is resumed"
        if reason:
            parts = tuple(int(part) if part.isdecimal() else part for part in key.split("."))
            faults.append(Fault(f"{now!r} now, {then!r} in the run; {reason}", key, requested.location(parts)))
    if faults:
        raise KitError(*faults)


def steps_cannot_change(before: Experiment, requested: Experiment) -> str | None:
    """Why the number of steps cannot change; None where the schedule gives the steps taken the same learning rates."""
    then, now = before.total_steps, requested.total_steps
    if now < then:
        return "steps may only grow"
    multiplier = before.schedule.multiplier
    if any(multiplier(step, then) != multiplier(step, now) for step in range(then)):
        return "the schedule depends on it, so the steps already taken would have used other learning rates"
    return None


def find_done_or_unfinished(requested: Experiment) -> tuple[RunFolder | None, str | None]:
    """Of the runs with the seed of `requested`: (one that is done, None), else (None, the unfinished one to resume);
    (None, None) where there are no such runs.

    Raises KitError where all are finished with fewer steps than requested, Busy where another process uses one.
    """
    mine = runs_of_same_seed(runs.runs_of_experiment(runs.runs_root() / requested.name), requested)
    for folder in reversed(mine):
        if is_done(folder.status(), requested):
            return folder, None
    return None, str(newest_unfinished(requested)) if mine else None
