"""Options of a model's parts that schedules may change during training, such as the window of an attention.

A component names them in `Component.schedulable`. A target is the key of such an option: `model.attention.1.window` is
that of one element of a layered list, `model.attention.window` that of every element which has a value for it and no
more specific target.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from nanogpt_kit.core.errors import Key, dotted
from nanogpt_kit.core.options import Component, components_in

ROUNDING = 1e-9  # so that 100 * 0.29 is 29
Number = int | float


@dataclass(frozen=True)
class PartOption:
    """A schedulable option of a component of the model."""

    key: Key  # ("model", "attention", 1, "window"), as in the experiment file
    component: Component

    @property
    def dotted(self) -> str:
        return dotted(self.key)

    @property
    def name(self) -> str:
        return str(self.key[-1])

    @property
    def targets(self) -> tuple[str, str]:
        """The targets that mean it, the more specific one first; the same where no list is involved."""
        return self.dotted, dotted(tuple(part for part in self.key if not isinstance(part, int)))

    @property
    def base(self) -> Number | None:
        """Its value in the experiment, which schedules multiply; None where it has none."""
        value = getattr(self.component, self.name)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None

    def scaled(self, multiplier: float) -> Number:
        """The base times a multiplier. A whole number stays one: it is rounded down, but not below its least value."""
        assert self.base is not None, f"{self.dotted} has no value to multiply"
        if isinstance(self.base, float):
            return self.base * multiplier
        bounds = type(self.component).model_fields[self.name].metadata
        least = [getattr(bound, "ge", 0) for bound in bounds] + [getattr(bound, "gt", -1) + 1 for bound in bounds]
        return max(int(self.base * multiplier + ROUNDING), 0, *least)

    def refusal_reason(self, value: Number) -> str | None:
        """Why the component does not take the value; None where it does."""
        try:
            type(self.component).model_validate({**dict(self.component), self.name: value})
        except ValidationError as error:
            return error.errors(include_url=False)[0]["msg"].replace("Input should", "it should")
        return None


def part_options(model: Component) -> list[PartOption]:
    """The schedulable options of a model and of its parts, whether they have a value or not."""
    parts: list[tuple[Key, Component]] = [(("model",), model), *components_in(model, ("model",))]
    return [PartOption((*key, name), part) for key, part in parts for name in part.schedulable]


def missing_base(model: Component, target: str) -> str | None:
    """Why a target of the model has no effect: no option that it means has a value to multiply; else None."""
    meant = [option for option in part_options(model) if target in option.targets]
    if not meant or any(option.base is not None for option in meant):
        return None
    example = f"{meant[0].dotted} = {getattr(model, 'block_size', 1)}"
    return f"{target} has no value that the schedule could multiply; set it, for example {example}"


def driven_options(model: Component, targets: Collection[str]) -> Mapping[str, list[PartOption]]:
    """The options that each target drives; of two targets that mean an option, the more specific one does."""
    driven: dict[str, list[PartOption]] = {target: [] for target in targets}
    for option in part_options(model):
        target = next((target for target in option.targets if target in driven), None)
        if target is not None and option.base is not None:
            driven[target].append(option)
    return driven
