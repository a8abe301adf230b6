"""Sets the options of a model's parts that schedules change, such as the window of an attention, before each step.

Their values are part of the run's progress, and so of its checkpoints: whoever loads a model uses those of its step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from nanogpt_kit.core.errors import RunFailed
from nanogpt_kit.core.kinds import Model
from nanogpt_kit.core.part_options import Number, PartOption, driven_options


class ScheduledOptions:
    """The options of a model's parts that the schedules of a run drive, and the modules that read them."""

    def __init__(self, model: Model, module: nn.Module, targets: Sequence[str], values: dict[str, Number]) -> None:
        """`values`, of each option by its key, are updated in place. Those that are there already are set."""
        self.values = values
        self.driven: Mapping[str, list[PartOption]] = driven_options(model, targets)
        options = [option for driven in self.driven.values() for option in driven]
        self.modules = {option.dotted: modules_of(option, module) for option in options}
        for option in options:
            if option.dotted in values:
                self.set(option, values[option.dotted])

    def scale(self, target: str, multiplier: float) -> float | None:
        """Sets every option that a target drives to its base times `multiplier`.

        Returns the value of the first one; None where schedules with more specific targets drive them all.
        """
        values = [option.scaled(multiplier) for option in self.driven[target]]
        for option, value in zip(self.driven[target], values, strict=True):
            if value != self.values.get(option.dotted):
                self.set(option, value)
        return values[0] if values else None

    def set(self, option: PartOption, value: Number) -> None:
        self.values[option.dotted] = value
        for module in self.modules[option.dotted]:
            setattr(module, option.name, value)


def modules_of(option: PartOption, model: nn.Module) -> list[nn.Module]:
    """The modules that the option's component has built. Raises RunFailed where none reads the option."""
    built = [module for module in model.modules() if getattr(module, "options", None) is option.component]
    found = [module for module in built if hasattr(module, option.name)]
    if not found:
        component = type(option.component).__name__
        remedy = f"the module that {component} builds should have the component as `options`, and `{option.name}`"
        raise RunFailed(f"{option.dotted} is scheduled, and no module of the model reads it: {remedy}")
    return found
