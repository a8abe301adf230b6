"""Which run to go on with, and whether it may go on as asked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.layers import Layers
from nanogpt_kit.runs import folder as runs
from nanogpt_kit.runs.files import write_atomically
from nanogpt_kit.runs.folder import RunFolder

# Of [train]: how long and how fast, and not what.
MAY_CHANGE = ("steps", "max_tokens", "max_seconds", "compile", "activation_checkpointing", "threads")


def reopen(wanted: Experiment, named: str, trust_code: bool) -> tuple[Experiment, RunFolder]:
    """The run to go on with, and the experiment to go on by: the run's own, with what may change taken from `wanted`.

    `named` is a run; "" is the newest of the experiment that is not done. Raises KitError where there is none, where
    it is done, or where the two differ in what decides the training.
    """
    if named:
        folder = runs.find(named)
    else:
        parent = runs.runs_root() / wanted.name
        folder = newest_unfinished(wanted, parent)
    if folder.status().get("imported"):
        raise KitError(f"{folder} was imported, not trained; model.init_from={folder} starts from it")
    folder.check_inside()
    before, layers = begun(folder, trust_code)
    check_differences(before, wanted)
    if is_done(folder.status(), wanted):
        raise KitError(f"{folder} is finished; train.steps=<more> would continue it")
    for path, source in wanted.component_sources.items():  # a callback, say, that this run has not had so far
        copy = folder.path / "components" / path.name
        if not copy.exists():
            copy.parent.mkdir(exist_ok=True)
            write_atomically(copy, source)
            layers.values["components"].append(f"components/{path.name}")
    values = wanted.resolved()
    for section in Experiment.may_change:
        layers.values[section] = values[section]
    for key in MAY_CHANGE:
        value = values["train"].get(key)
        layers.values["train"].pop(key, None)
        if value is not None:
            layers.values["train"][key] = value
    return Experiment.of(layers, folder.path, trust_code), folder


def is_done_in(folder: RunFolder, wanted: Experiment, trust_code: bool = False) -> bool:
    """Whether this very run lies there and has ended. Raises KitError where another one lies there."""
    if not folder.experiment.exists() or not is_done(folder.status(), wanted):
        return False
    check_differences(begun(folder, trust_code)[0], wanted)
    return True


def begun(folder: RunFolder, trust_code: bool) -> tuple[Experiment, Layers]:
    """What a run began as. Raises KitError where it brings code of its own that was never run here."""
    layers = Layers.load(folder.experiment)
    return Experiment.of(layers, folder.path, trust_code), layers


def newest_unfinished(wanted: Experiment, parent: Path) -> RunFolder:
    at_work, found = [], runs.of_experiment(parent)
    same_seed = [folder for folder in found if f"-s{wanted.train.seed}-" in folder.path.name]
    for folder in reversed(same_seed or found):
        status = folder.status()
        if status.get("state") == "running":
            at_work.append(folder)
        elif status.get("imported"):
            continue
        elif not is_done(status, wanted):
            return folder
    busy = f"; {at_work[0]} is at work in another process" if at_work else ""
    raise KitError(f"{parent} has no unfinished run to resume{busy}")


def is_done(status: Mapping[str, Any], wanted: Experiment) -> bool:
    """Whether a run that ended so has spent all that is wanted now."""
    if status.get("state") != "finished":
        return False
    spent = status.get("seconds", 0.0) >= (wanted.train.max_seconds or math.inf)
    by_budget = "train.max_seconds" in status.get("reason", "")
    return spent or not (by_budget or status.get("total_steps", 0) < wanted.total_steps)


def check_differences(before: Experiment, wanted: Experiment) -> None:
    """Raises KitError for each key that decides the training and is not what it was."""
    faults = []
    for key, (then, now) in before.differences(wanted).items():
        section, _, option = key.partition(".")
        if key in ("train.steps", "train.max_tokens"):
            reason = steps_cannot_change(before, wanted)
        elif section in (*Experiment.may_change, "components") or (section == "train" and option in MAY_CHANGE):
            continue
        else:
            reason = "a resumed run goes on as it began"
        if reason:
            parts = tuple(int(part) if part.isdecimal() else part for part in key.split("."))
            faults.append(Fault(f"{now!r} now, {then!r} in the run; {reason}", key, wanted.place(parts)))
    if faults:
        raise KitError(*faults)


def steps_cannot_change(before: Experiment, wanted: Experiment) -> str | None:
    """The schedule is a pure function, so it can be asked whether the steps already planned would have differed."""
    then, now = before.total_steps, wanted.total_steps
    if now < then:
        return "steps may only grow"
    multiplier = before.schedule.multiplier
    if any(multiplier(step, then) != multiplier(step, now) for step in range(then)):
        return "the schedule depends on it, so the steps already made would have been others"
    return None


def of_seed(wanted: Experiment) -> tuple[RunFolder | None, str | None]:
    """Of the runs with the seed of `wanted`: one that is done, or what to resume; two times None where there are none.

    Raises KitError where one is at work.
    """
    found = runs.of_experiment(runs.runs_root() / wanted.name)
    mine = [folder for folder in found if f"-s{wanted.train.seed}-" in folder.path.name]
    for folder in reversed(mine):
        if is_done(folder.status(), wanted):
            return folder, None
    return None, str(newest_unfinished(wanted, runs.runs_root() / wanted.name)) if mine else None
