"""Budgets: arms compare where their runs take equal steps, equal tokens, or equal seconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from nanogpt_kit.comparison.question import Arm, Question
from nanogpt_kit.comparison.record import Measurement
from nanogpt_kit.core.errors import Fault, dotted
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Schedule
from nanogpt_kit.core.targets import BATCH_SHAPING
from nanogpt_kit.runs.description import one_line
from nanogpt_kit.runs.folder import RunFolder

LIMIT_KEY = "train.max_seconds"
SAMPLED_STEPS = 1000  # at which a schedule is compared, at the beginning of a run and evenly over it
UNEVEN = "a run with more training is better for that alone"


def planned_faults(question: Question) -> Iterator[Fault]:
    """Why the runs of the arms would have unequal budgets."""
    base = question.base
    for arm in question.arms:
        if arm.experiment.train.max_seconds is not None and not arm.runs:
            yield from schedule_faults(arm)
    for arm in question.arms[1:]:
        mine, theirs = arm.experiment, base.experiment
        if mine.train.max_seconds != theirs.train.max_seconds:
            limits = " and ".join(f"{limit_text(one.experiment)} in {one_line(one.label)}" for one in (base, arm))
            yield fault_of(
                arm, ("train", "max_seconds"), f"{LIMIT_KEY} is {limits}; give both the same limit, or neither"
            )
        elif not (mine.step_plan.is_known and theirs.step_plan.is_known):
            continue  # of runs, whose schedules are not installed: what they took is compared
        elif mine.train.max_seconds is None and not has_equal_budgets(mine, theirs):
            text = unequal_text(one_line(arm.label), one_line(base.label), planned_text(mine), planned_text(theirs))
            is_limited = mine.train.max_tokens not in (None, theirs.train.max_tokens)
            yield fault_of(arm, ("train", "max_tokens" if is_limited else "steps"), text)


def schedule_faults(arm: Arm) -> Iterator[Fault]:
    """Why a limit of seconds would cut off one of the arm's schedules."""
    for target in cut_off_targets(arm.experiment):
        reason = f"{one_line(arm.label)}: {LIMIT_KEY} ends a run before {its_schedule(target)} has come to its end"
        yield fault_of(arm, ("train", "max_seconds"), f"{reason}; leave it out and give train.steps")


def has_equal_budgets(one: Experiment, other: Experiment) -> bool:
    return one.total_steps == other.total_steps or planned_tokens(one) == planned_tokens(other)


def planned_tokens(experiment: Experiment) -> int:
    return experiment.total_tokens


def planned_text(experiment: Experiment) -> str:
    return budget_text(experiment.total_steps, planned_tokens(experiment))


def budget_text(steps: int, tokens: int) -> str:
    return f"{steps:,} steps and {tokens:,} tokens"


def limit_text(experiment: Experiment) -> str:
    limit = experiment.train.max_seconds
    return "not set" if limit is None else f"{limit:g}"


def cut_off_targets(experiment: Experiment) -> list[str]:
    """The targets of schedules that a limit of seconds cuts off: those of batches follow steps or tokens alone."""
    shaping = [schedule for schedule in experiment.schedules if schedule.target in BATCH_SHAPING]
    return [one.target for one in shaping if not is_independent_of_length(one, experiment.total_steps)]


def its_schedule(target: str) -> str:
    return f"its schedule of {target}, which follows steps,"


def is_independent_of_length(schedule: Schedule, total: int) -> bool:
    """Whether the schedule has the same multipliers in a run of twice as many steps."""
    multiplier = schedule.multiplier
    spread = range(0, total, max(1, total // SAMPLED_STEPS))
    steps = {*range(min(total, SAMPLED_STEPS)), *spread, max(0, total - 1)}
    return all(multiplier(step, total) == multiplier(step, 2 * total) for step in steps)


def spent_budget(question: Question, finished: Sequence[Measurement]) -> tuple[str, list[Fault]]:
    """The budget that all finished runs had, for people, and why some of them had another."""
    faults = [stopped_fault(question, one) for one in finished if one.ended_by == "callback"]
    whole = [one for one in finished if one.ended_by != "callback"]
    if any(one.ended_by == "max_seconds" for one in whole):
        text, unequal = spent_seconds(question, whole)
    else:
        text, unequal = spent_steps(question, whole)
    return text, [*faults, *unequal]


def spent_steps(question: Question, whole: Sequence[Measurement]) -> tuple[str, list[Fault]]:
    """Where no limit of seconds ended a run."""
    if len({one.steps for one in whole}) == 1:
        return f"{whole[0].steps:,} steps", []
    if len({one.tokens for one in whole}) == 1:
        return f"{whole[0].tokens:,} tokens", []
    different = {(one.arm, spent_text(one)): one for one in reversed(whole) if spent_text(one) != spent_text(whole[0])}
    first = run_label(question, whole[0]), spent_text(whole[0])
    texts = [unequal_text(run_label(question, one), first[0], spent_text(one), first[1]) for one in different.values()]
    return "", list(map(Fault, reversed(texts)))


def spent_text(one: Measurement) -> str:
    return budget_text(one.steps, one.tokens)


def spent_seconds(question: Question, whole: Sequence[Measurement]) -> tuple[str, list[Fault]]:
    """Where a limit of seconds ended at least one run."""
    limit = question.base.experiment.train.max_seconds
    faults = []
    for one in whole:
        arm, label = question.arms[one.arm], run_label(question, one)
        own = arm.experiment.train.max_seconds
        if one.ended_by != "max_seconds":
            reason = f"{label} ended after its {one.steps:,} steps, and other runs by {LIMIT_KEY}"
            faults.append(Fault(f"{reason}; give all enough train.steps, or no limit of seconds"))
        elif own != limit:
            base = f"in {one_line(question.base.label)} it is {limit_text(question.base.experiment)}"
            faults.append(Fault(f"{label} was ended by {LIMIT_KEY} = {limit_text(arm.experiment)}, and {base}"))
        elif cut_off := cut_off_targets(arm.experiment):
            reason = f"{label} was ended by {LIMIT_KEY} before {its_schedule(cut_off[0])} had come to its end"
            faults.append(Fault(f"{reason}; train it without the limit"))
    return f"{limit:g} s of training" if limit is not None else "", faults


def stopped_fault(question: Question, one: Measurement) -> Fault:
    """Of a run that a callback ended, as early stopping does."""
    status = RunFolder(Path(one.run)).status()
    reason = f": {one_line(status.reason)}" if status.reason else ""
    text = f"{run_label(question, one)} was ended by a callback after {one.steps:,} of {status.total_steps:,} steps"
    remedy = f"{UNEVEN}; train it again without that callback"
    return Fault(f"{text}{reason}; {remedy}", "callback")


def unequal_text(one: str, other: str, mine: str, theirs: str) -> str:
    return f"{one} has {mine}, and {other} has {theirs}; {UNEVEN}: give both the same train.steps, or the same tokens"


def run_label(question: Question, one: Measurement) -> str:
    """Such as "swiglu with seed 1338"."""
    return f"{one_line(question.arms[one.arm].label)} with seed {one.seed}"


def fault_of(arm: Arm, key: tuple[str, ...], message: str) -> Fault:
    return Fault(message, dotted(key), arm.experiment.location(key))
