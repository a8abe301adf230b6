"""The suite of every component: its options.

The suites need no fixtures; they draw from their own generators, or from torch's after seeding it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, get_args, get_origin

import tomli
import tomli_w
from pydantic import ValidationError

from nanogpt_kit.core.describe import component_docstring
from nanogpt_kit.core.options import Component, to_toml_values
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.testing.remedy import errors_as_failures


class ComponentConformance:
    """For components of any kind: the options are described, frozen, and survive TOML."""

    component: ClassVar[Component]

    def test_the_class_or_its_file_has_a_docstring(self) -> None:
        assert component_docstring(type(self.component)), (
            "neither the component's class nor its file has a docstring: say what it is, and its source"
        )

    def test_every_option_has_a_description(self) -> None:
        for name, option in type(self.component).model_fields.items():
            several = get_origin(option.annotation) is tuple  # a slot of one is described by its kind
            is_described = option.description or (is_slot(option.annotation) and not several)
            add = "slot(..., description=...)" if is_slot(option.annotation) else "Field(description=...)"
            assert is_described, f"option {name} has no description: add {add}"

    def test_options_are_frozen(self) -> None:
        with errors_as_failures("an option can change after validation: use tuples in place of lists, and no dicts"):
            hash(self.component)
        for name in (*type(self.component).model_fields, "another"):
            answer = validation_error(partial(setattr, self.component, name, None))
            assert "frozen" in answer, f"option {name} can be set: leave frozen = True in model_config"

    def test_unknown_options_are_refused(self) -> None:
        options = {**self.as_toml(), "no_such_option": 1}
        answer = validation_error(lambda: type(self.component).model_validate(options))
        assert "no_such_option" in answer, "an unknown option is accepted: leave extra = 'forbid' in model_config"

    def test_options_survive_toml(self) -> None:
        claim = "the options cannot be written to TOML and read again: use plain values, tuples and components"
        with errors_as_failures(claim):
            again = type(self.component).model_validate(tomli.loads(tomli_w.dumps(self.as_toml())))
        remedy = "a validator may check an option but must not change it when it is read again"
        assert again == self.component, f"written to TOML and read again, {self.component!r} is {again!r}: {remedy}"

    def as_toml(self) -> dict[str, Any]:
        """The options as in an experiment file."""
        return to_toml_values(self.component, Registry.installed())


def is_slot(annotation: Any) -> bool:
    """Whether an option takes a component, or several."""
    if isinstance(annotation, type) and issubclass(annotation, Component):
        return True
    return any(is_slot(argument) for argument in get_args(annotation))


def validation_error(action: Callable[[], object]) -> str:
    """What pydantic answers to an action; empty if it is allowed."""
    try:
        action()
    except ValidationError as error:
        return str(error)
    return ""
