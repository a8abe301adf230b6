"""Training a run for longer than it was made for, where its schedules allow that, and the ways where they do not.

The schedules themselves decide, by `multiplier(step, total_steps)`: a step stays valid if each has the same multiplier
under the new budgets.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

from nanogpt_kit.checkpoint import store
from nanogpt_kit.checkpoint.manifest import find_damage, step_of
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Optimizer, Schedule
from nanogpt_kit.core.pace import multiplier_at
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION
from nanogpt_kit.core.targets import LEARNING_RATE
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.runs.resume_command import new_run_command, resume_command, run_argument
from nanogpt_kit.runs.status import Status

WORTHWHILE = 0.1  # of all steps: to begin again from an earlier checkpoint saves less than a new run costs
ROUNDED = 1e-3  # seconds: to which metrics.jsonl has them

Clock = Callable[[int], float]  # a number of steps -> the seconds that a run has spent in them, or a little more


@dataclass(frozen=True)
class MoreTraining:
    """A larger budget of steps or of seconds."""

    experiment: Experiment  # with it
    of_new_run: str  # the override with which a new run takes only what is added
    arguments: tuple[str, ...]  # with which the run itself, or a branch, has the larger budget

    @classmethod
    def of(cls, before: Experiment, requested: Experiment) -> MoreTraining:
        if requested.total_steps > before.total_steps:
            return cls.of_steps(requested, str(requested.total_steps - before.total_steps))
        then, now = before.train.max_seconds or math.inf, requested.train.max_seconds
        added = "SECONDS" if now is None or now <= then else f"{now - then:g}"
        longer = "SECONDS" if now is None else f"{now:g}"
        return cls(requested, f"train.max_seconds={added}", (f"train.max_seconds={longer}",))

    @classmethod
    def of_steps(cls, experiment: Experiment, steps: str) -> MoreTraining:
        return cls(experiment, f"train.steps={steps}", ("--extend", steps))


def extension_overrides(before: Experiment, steps: int) -> list[str]:
    """The overrides by which a run takes that many steps more than it was made for."""
    total = before.total_steps + steps
    overrides = [f"train.steps={max(total, before.train.steps)}"]
    if before.train.max_tokens is not None:
        overrides = [*overrides, f"train.max_tokens={before.step_plan.with_steps(total).total_tokens}"]
    return overrides


def with_budgets(experiment: Experiment, **budgets: float | None) -> Experiment:
    """The experiment with other values of these options of `train`."""
    return experiment.model_copy(update={"train": experiment.train.model_copy(update=budgets)})


def clock_of(folder: RunFolder) -> Clock:
    """By what the run has recorded: at a step between two lines of metrics.jsonl the seconds of the later one."""
    lines = [line for line in read_metrics(folder.metrics) if isinstance(line.get("seconds"), int | float)]
    marks, status = [(line["step"], line["seconds"]) for line in lines], folder.status()
    if marks and status.step > marks[-1][0]:  # where it was interrupted
        marks.append((status.step, status.seconds))
    steps, seconds = [step for step, _ in marks], [spent + ROUNDED for _, spent in marks]
    return lambda step: seconds[min(bisect_left(steps, step), len(steps) - 1)] if steps else 0.0


def uses_total_steps(experiment: Experiment) -> bool:
    """Whether its optimizer, or one within it, computes updates from the number of steps of the run."""
    return any(part.uses_total_steps for _, part in experiment.parts() if isinstance(part, Optimizer))


def first_changed_step(
    before: Experiment, after: Experiment, until: int, folder: RunFolder | None = None
) -> tuple[int, str] | None:
    """The first of `until` steps that would be another one with the budgets of `after`, and why.

    The first one where the optimizer uses the number of steps, since nothing shows what it does with it. A run that a
    budget of seconds ends may have been made for 10^12 steps, so only those of interest are compared.
    """
    if uses_total_steps(before) and after.total_steps != before.total_steps and until:
        return 0, "the optimizer depends on it, so the steps already taken would have had other updates"
    has_seconds = before.train.max_seconds is not None or after.train.max_seconds is not None
    clock: Clock = clock_of(folder) if has_seconds and folder is not None else lambda step: 0.0
    for step in range(min(before.total_steps, after.total_steps, until)):
        seconds = clock(step) if step else 0.0
        for schedule in before.schedules:
            if multiplier_at(before, schedule, step, seconds) != multiplier_at(after, schedule, step, seconds):
                return step, reason_of_schedule(schedule)
    return None


def equal_steps(before: Experiment, after: Experiment, until: int, folder: RunFolder | None = None) -> int:
    """How many of the first `until` steps of `before` are the same under the budgets of `after`."""
    found = first_changed_step(before, after, until, folder)
    return min(before.total_steps, after.total_steps, until) if found is None else found[0]


def reason_of_schedule(schedule: Schedule) -> str:
    """Why a budget cannot change where this schedule would have given other multipliers to the steps taken."""
    if schedule.target == LEARNING_RATE:
        return "the schedule depends on it, so the steps already taken would have used other learning rates"
    return f"the schedule of {schedule.target} depends on it, so the steps already taken would have used other values"


def branch_step(folder: RunFolder, limit: int) -> int | None:
    """The step of the newest whole checkpoint that is not after step `limit`; None where there is none."""
    for path in reversed(store.list_checkpoints(folder.checkpoints)):
        if 0 < step_of(path) <= limit and find_damage(path) is None:
            return step_of(path)
    return None


def ways_to_extend(folder: RunFolder, before: Experiment, more: MoreTraining, length: int) -> str:
    """What trains a run longer that cannot continue with `more`; `length` is the number of steps that it was for."""
    shared = equal_steps(before, more.experiment, length, folder)
    arguments = (f"model.init_from={run_argument(folder)}", more.of_new_run)
    ways = [f"a new run from its weights, with a new schedule: {new_run_command(folder, *arguments)}"]
    step = branch_step(folder, shared)
    every = before.checkpoint.every_steps
    if step is not None and step >= length * WORTHWHILE:
        command = resume_command(folder, *more.arguments, step=step)
        ways.append(f"a new run from its checkpoint of step {step}, where both schedules are still equal: {command}")
    elif shared >= max(every, length / 2):  # of less than half, little would be gained
        kept = f"both schedules are equal up to step {shared}, but no checkpoint of these steps was kept"
        ways.append(f"{kept}; in the next run, checkpoint.keep_every_steps={every} keeps them")
    elif uses_total_steps(before):  # which no schedule changes
        pass
    elif (name := stable_schedule()) and len(before.schedules) == 1:
        warmup = getattr(before.schedules[0], "warmup_steps", 0)
        kept_often = [f"checkpoint.keep_every_steps={every}"]
        if every > length / 2:  # no checkpoint would be in the stable part
            every = max(1, length // 10)
            kept_often = [f"checkpoint.every_steps={every}", f"checkpoint.keep_every_steps={every}"]
        settings = [f"schedule={name}", *([f"schedule.warmup_steps={warmup}"] if warmup else []), *kept_often]
        reason = f"a new run with the schedule {name}, which can be extended from its stable part"
        ways.append(f"{reason}: {new_run_command(folder, *settings)}")
    return "\n".join(["to train longer:", *(f"  {way}" for way in ways)])


def stable_schedule() -> str | None:
    """The name of our schedule that is constant in the middle of a run, however long that is, and decays at its end."""
    registry, total = Registry.installed(), 10_000  # steps, so that a warmup of some hundreds is over
    for entry in registry.of_kind(Schedule.kind):
        if entry.distribution != KIT_DISTRIBUTION:
            continue  # a plugin is not imported before an experiment names it
        schedule = registry.load(Schedule, entry.qualified)
        if any(field.is_required() for field in schedule.model_fields.values()):
            continue  # its shape is that of its options
        multiplier = schedule().multiplier
        middle = {multiplier(step, length) for step in (total // 4, total // 2) for length in (total, 2 * total)}
        if len(middle) == 1 and multiplier(total - 1, total) < multiplier(total // 2, total):
            return entry.name
    return None


def extension_hint(folder: RunFolder, before: Experiment, status: Status) -> str:
    """How a finished run trains longer, as a sentence with the commands."""
    by_seconds, taken = status.ended_by == "max_seconds", min(status.step, before.total_steps)
    if by_seconds:
        seconds = 2 * max(status.seconds, before.train.max_seconds or 0)
        requested, length = with_budgets(before, max_seconds=seconds), taken
        more = MoreTraining(requested, "train.max_seconds=SECONDS", (f"train.max_seconds={seconds:g}",))
    else:
        twice = with_budgets(before, steps=2 * before.total_steps, max_tokens=None)
        more = MoreTraining.of_steps(twice, "STEPS")
        length = before.total_steps
    if equal_steps(before, more.experiment, taken, folder) < taken:
        return ways_to_extend(folder, before, more, length)
    way = "continue with" if by_seconds else "to train longer"
    return f"{way}: {resume_command(folder, *more.arguments)}"
