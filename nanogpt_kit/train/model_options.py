"""Sets the options of a model's parts that schedules change, such as the window of an attention, before each step.

Their values are part of the run's progress, and so of its checkpoints: whoever loads a model uses those of its step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from torch import nn

from nanogpt_kit.core.errors import KitError, RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.part_options import Number, PartOption, driven_options
from nanogpt_kit.core.targets import model_targets
from nanogpt_kit.train.progress import Progress
from nanogpt_kit.train.schedules import checked_multiplier


def targets_of_parts(experiment: Experiment) -> list[str]:
    """The targets of its schedules that are options of the model's parts."""
    known = model_targets(experiment.model)
    return [schedule.target for schedule in experiment.schedules if schedule.target in known]


class ScheduledOptions:
    """The options of a model's parts that the schedules of a run drive, and the modules that read them.

    At first they have the values of step 0.
    """

    def __init__(self, experiment: Experiment, module: nn.Module, progress: Progress) -> None:
        """Raises KitError where a module does not read an option that a schedule drives."""
        self.progress = progress
        self.driven = driven_options(experiment.model, targets_of_parts(experiment))
        options = [option for driven in self.driven.values() for option in driven]
        self.modules = {option.dotted: (option, modules_of(option, module)) for option in options}
        for schedule in experiment.schedules:
            if schedule.target in self.driven:
                self.scale(schedule.target, checked_multiplier(experiment, schedule, 0, 0.0))

    @property
    def setters(self) -> Mapping[str, Callable[[float], None]]:
        """By target: what takes its multiplier before each step."""
        return {target: partial(self.scale, target) for target in self.driven}

    def scale(self, target: str, multiplier: float) -> None:
        """Raises RunFailed where an option does not allow its value: no experiment with it could be loaded again."""
        for option in self.driven[target]:
            value = option.scaled(multiplier)
            if value != self.progress.options.get(option.dotted) and (reason := option.refusal_reason(value)):
                raise RunFailed(
                    f"{option.dotted} is {value} at step {self.progress.step + 1} by its schedule; {reason}"
                )
            self.set(option.dotted, value)

    def restore(self) -> None:
        """Sets the values of the progress, as a checkpoint has restored them."""
        for key in self.modules.keys() & self.progress.options.keys():
            self.set(key, self.progress.options[key])

    def set(self, key: str, value: Number) -> None:
        option, modules = self.modules[key]
        self.progress.options[key] = value
        for module in modules:
            setattr(module, option.name, value)


def modules_of(option: PartOption, model: nn.Module) -> list[nn.Module]:
    """The modules that the option's component has built. Raises KitError where none reads the option."""
    built = [module for module in model.modules() if getattr(module, "options", None) is option.component]
    found = [module for module in built if hasattr(module, option.name)]
    if not found:
        component = type(option.component).__name__
        remedy = f"the module that {component} builds should have the component as `options`, and `{option.name}`"
        raise KitError(f"{option.dotted} has a schedule, but no module of the model reads it: {remedy}")
    return found
