"""Applies the schedules of a run: before each update the values of what they drive."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

from nanogpt_kit.core.errors import Fault, KitError, NotFinite, RunFailed, dotted
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Schedule
from nanogpt_kit.core.pace import multiplier_at
from nanogpt_kit.core.targets import GRAD_CLIP, LEARNING_RATE, Target
from nanogpt_kit.nn.parameter_groups import peak_rates
from nanogpt_kit.train.progress import Progress
from nanogpt_kit.train.world import World


@dataclass(frozen=True)
class GroupNumber:
    """A number in a parameter group of torch's optimizer, as `lr` or the first of `betas`."""

    group: int  # index
    name: str
    element: int | None  # of a tuple
    base: float  # what the schedule multiplies

    def set(self, optimizer: Optimizer, value: float) -> None:
        group = optimizer.param_groups[self.group]  # which loading a state replaces
        if self.element is None:
            group[self.name] = value
        else:
            group[self.name] = tuple(value if i == self.element else old for i, old in enumerate(group[self.name]))


@dataclass(frozen=True)
class Drive:
    """A schedule and what it drives: numbers of the optimizer, or something else that takes its multiplier."""

    schedule: Schedule
    bounds: Target
    numbers: tuple[GroupNumber, ...] = ()
    setter: Callable[[float], None] | None = None


class Schedules:
    """The schedules of one run, made before its optimizer is restored, so that they multiply the options' values."""

    def __init__(
        self,
        experiment: Experiment,
        optimizer: Optimizer,
        progress: Progress,
        world: World,
        setters: Mapping[str, Callable[[float], None]] | None = None,
    ) -> None:
        """`setters` take the multipliers of targets outside the optimizer. Raises KitError where one drives nothing."""
        self.experiment, self.optimizer, self.progress, self.world = experiment, optimizer, progress, world
        self.peak_rates = peak_rates(optimizer)
        self.grad_clip = experiment.train.grad_clip
        setters = {GRAD_CLIP: self.set_grad_clip, **(setters or {})}
        numbers: dict[str, list[GroupNumber]] = {}
        self.constant_rates: list[GroupNumber] = []
        scheduled = {schedule.target for schedule in experiment.schedules}
        for target, number in driven_numbers(optimizer, self.peak_rates, scheduled):
            (numbers.setdefault(target, []) if target else self.constant_rates).append(number)
        targets = experiment.targets
        self.drives = [
            Drive(one, targets[one.target], tuple(numbers.get(one.target, ())), setters.get(one.target))
            for one in experiment.schedules
        ]
        check_each_drives_something(experiment, self.drives)

    def apply(self) -> dict[str, float]:
        """Sets the values of the next update. Returns metrics: the learning rate, the multipliers of other targets.

        Raises RunFailed where a multiplier is not one, or makes a value that the option does not allow.
        """
        step = self.progress.step
        if self.world.size > 1 and self.experiment.train.max_seconds is not None:
            self.progress.seconds = self.world.of_first_rank(self.progress.seconds)  # one clock for all
        for number in self.constant_rates:
            number.set(self.optimizer, number.base)
        metrics = {}
        for drive in self.drives:
            multiplier = checked_multiplier(self.experiment, drive.schedule, step, self.progress.seconds)
            for number in drive.numbers:
                value = number.base * multiplier
                check_value(drive, step, value)
                number.set(self.optimizer, value)
            if drive.setter is not None:
                check_value(drive, step, drive.bounds.value * multiplier)
                drive.setter(multiplier)
            if drive.schedule.target != LEARNING_RATE:
                metrics[f"schedule/{drive.schedule.target}"] = multiplier
        return {"optim/lr": float(self.optimizer.param_groups[0]["lr"]), **metrics}

    def set_grad_clip(self, multiplier: float) -> None:
        self.grad_clip = self.experiment.train.grad_clip * multiplier


def driven_numbers(optimizer: Optimizer, peaks: list[float], scheduled: set[str]) -> Iterator[tuple[str, GroupNumber]]:
    """Each number of the optimizer with the most specific of the scheduled targets; "" for a constant learning rate."""
    for index, (group, peak) in enumerate(zip(optimizer.param_groups, peaks, strict=True)):
        prefixes = prefixes_of_group(group)
        for name, element, value in numbers_in(group):
            key = name if element is None else f"{name}.{element}"
            target = next((f"{prefix}.{key}" for prefix in prefixes if f"{prefix}.{key}" in scheduled), "")
            if target or name == "lr":
                yield target, GroupNumber(index, name, element, peak if name == "lr" else value)


def prefixes_of_group(group: Mapping[str, Any]) -> list[str]:
    """The beginnings of targets that mean a parameter group, the most specific first."""
    of_options = [] if group.get("group") is None else [f"optimizer.group.{group['group']}"]
    slot = ["optimizer", *str(group.get("slot") or "").split(".")] if group.get("slot") else ["optimizer"]
    return [*of_options, *(".".join(slot[:length]) for length in range(len(slot), 0, -1))]


def numbers_in(group: Mapping[str, Any]) -> Iterator[tuple[str, int | None, float]]:
    """(name, index in a tuple, value) of each number of a parameter group."""
    for name, value in group.items():
        if isinstance(value, tuple):
            yield from ((name, index, one) for index, one in enumerate(value) if isinstance(one, float))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, None, value


def check_each_drives_something(experiment: Experiment, drives: list[Drive]) -> None:
    faults = []
    keys = {id(part): key for key, part in experiment.parts() if isinstance(part, Schedule)}
    for drive in drives:
        if drive.schedule.target.startswith("optimizer.") and not drive.numbers:
            key = (*keys[id(drive.schedule)], "target")
            reason = (
                f"no parameters have a value of {drive.schedule.target} in the optimizer that this schedule changes"
            )
            faults.append(Fault(reason, dotted(key), experiment.layers.location(key)))
    if faults:
        raise KitError(*faults)


def checked_multiplier(experiment: Experiment, schedule: Schedule, step: int, seconds: float) -> float:
    """The multiplier of a step. Raises RunFailed where it is not a finite number that is not negative."""
    multiplier = multiplier_at(experiment, schedule, step, seconds)
    if isinstance(multiplier, int | float) and 0 <= multiplier < math.inf:
        return multiplier
    what = f"the multiplier of {schedule.target} is {multiplier!r} at step {step + 1}"
    reason = f"{what} by schedule {type(schedule).__name__}; expected a finite number that is not negative"
    is_finite = not isinstance(multiplier, int | float) or math.isfinite(multiplier)
    raise (RunFailed if is_finite else NotFinite)(reason)


def check_value(drive: Drive, step: int, value: float) -> None:
    """Raises RunFailed where the option does not allow the value."""
    if not (drive.bounds.allows(value) and value < math.inf):
        limit = (
            f"below {drive.bounds.below:g}" if drive.bounds.below < math.inf else f"of at most {drive.bounds.at_most:g}"
        )
        reason = f"{drive.schedule.target} is {value:g} at step {step + 1} by schedule {type(drive.schedule).__name__}"
        raise RunFailed(f"{reason}; expected a number {limit}")
