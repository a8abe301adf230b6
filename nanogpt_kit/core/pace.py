"""The length of a run as its schedules take it: in steps, whichever budget ends the run first."""

from __future__ import annotations

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Schedule
from nanogpt_kit.core.targets import BATCH_SHAPING


def length_at_pace(experiment: Experiment, step: int, seconds: float) -> float:
    """The `total_steps` of schedules at a step before which `seconds` were spent in steps.

    Where more of the budget of seconds is used than of those of steps and tokens, it is the length at the pace so far,
    so that step / total_steps is the fraction of the seconds that are used.
    """
    total, limit = experiment.step_plan.pace(step), experiment.train.max_seconds
    if limit is None or seconds <= 0 or step == 0:
        return total
    at_pace = step / (seconds / limit)
    return at_pace if at_pace < total else total


def multiplier_at(experiment: Experiment, schedule: Schedule, step: int, seconds: float) -> float:
    """The multiplier of one of its schedules, as in `length_at_pace`; batches are a function of the step alone."""
    length = length_at_pace(experiment, step, 0.0 if schedule.target in BATCH_SHAPING else seconds)
    return schedule.multiplier(step, length)
