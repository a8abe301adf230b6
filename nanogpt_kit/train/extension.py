"""Training a run for more steps than it was made for, where its schedule allows that, and the ways where it does not.

The schedule itself decides, by `multiplier(step, total_steps)`: a step stays valid if it has the same learning rate
under the new number of steps.
"""

from __future__ import annotations

from nanogpt_kit.checkpoint import store
from nanogpt_kit.checkpoint.manifest import find_damage, step_of
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Optimizer, Schedule
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.resume_command import new_run_command, resume_command, run_argument
from nanogpt_kit.runs.status import Status

WORTHWHILE = 0.1  # of all steps: to begin again from an earlier checkpoint saves less than a new run costs


def extension_overrides(before: Experiment, steps: int) -> list[str]:
    """The overrides by which a run takes that many steps more than it was made for."""
    total = before.total_steps + steps
    overrides = [f"train.steps={max(total, before.train.steps)}"]
    if before.train.max_tokens is not None:
        overrides = [*overrides, f"train.max_tokens={total * before.train.batch_tokens}"]
    return overrides


def uses_total_steps(experiment: Experiment) -> bool:
    """Whether its optimizer, or one within it, computes updates from the number of steps of the run."""
    return any(part.uses_total_steps for _, part in experiment.parts() if isinstance(part, Optimizer))


def equal_steps(before: Experiment, total_steps: int, until: int) -> int:
    """How many of the first `until` steps of `before` have the same learning rates in a run of `total_steps`.

    0 where the optimizer uses the number of steps, since nothing shows what it does with it. A run that a budget of
    seconds ends may have been made for 10^12 steps, so only those of interest are compared.
    """
    if uses_total_steps(before) and total_steps != before.total_steps:
        return 0
    multiplier, then = before.schedule.multiplier, before.total_steps
    steps = range(min(then, total_steps, until))
    return next((step for step in steps if multiplier(step, then) != multiplier(step, total_steps)), len(steps))


def branch_step(folder: RunFolder, limit: int) -> int | None:
    """The step of the newest whole checkpoint that is not after step `limit`; None where there is none."""
    for path in reversed(store.list_checkpoints(folder.checkpoints)):
        if 0 < step_of(path) <= limit and find_damage(path) is None:
            return step_of(path)
    return None


def ways_to_extend(folder: RunFolder, before: Experiment, total_steps: int, steps: str) -> str:
    """What trains a run longer that cannot continue with `total_steps`; `steps` is the number of further steps."""
    shared = equal_steps(before, total_steps, before.total_steps)
    arguments = (f"model.init_from={run_argument(folder)}", f"train.steps={steps}")
    ways = [f"a new run from its weights, with a new schedule: {new_run_command(folder, *arguments)}"]
    step = branch_step(folder, shared)
    every = before.checkpoint.every_steps
    if step is not None and step >= before.total_steps * WORTHWHILE:
        command = resume_command(folder, "--extend", steps, step=step)
        ways.append(f"a new run from its checkpoint of step {step}, where both schedules are still equal: {command}")
    elif shared >= max(every, before.total_steps / 2):  # of less than half, little would be gained
        kept = f"both schedules are equal up to step {shared}, but no checkpoint of these steps was kept"
        ways.append(f"{kept}; in the next run, checkpoint.keep_every_steps={every} keeps them")
    elif uses_total_steps(before):  # which no schedule changes
        pass
    elif name := stable_schedule():
        warmup = getattr(before.schedule, "warmup_steps", 0)
        kept_often = [f"checkpoint.keep_every_steps={every}"]
        if every > before.total_steps / 2:  # no checkpoint would be in the stable part
            every = max(1, before.total_steps // 10)
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
        multiplier = registry.load(Schedule, entry.qualified)().multiplier
        middle = {multiplier(step, length) for step in (total // 4, total // 2) for length in (total, 2 * total)}
        if len(middle) == 1 and multiplier(total - 1, total) < multiplier(total // 2, total):
            return entry.name
    return None


def extension_hint(folder: RunFolder, before: Experiment, status: Status) -> str:
    """How a finished run trains longer, as a sentence with the commands."""
    if status.ended_by == "max_seconds":
        seconds = 2 * max(status.seconds, before.train.max_seconds or 0)
        return f"continue with: {resume_command(folder, f'train.max_seconds={seconds:g}')}"
    doubled, taken = 2 * before.total_steps, min(status.step, before.total_steps)
    if equal_steps(before, doubled, taken) == taken:
        return f"to train longer: {resume_command(folder, '--extend', 'STEPS')}"
    return ways_to_extend(folder, before, doubled, "STEPS")
