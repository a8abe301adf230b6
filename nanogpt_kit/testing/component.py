"""The suite of every component: its options.

The suites need no fixtures; they draw from their own generators, or from torch's after seeding it.
"""

from __future__ import annotations

import sys
from typing import Any, ClassVar

import pytest
import tomli
import tomli_w
from pydantic import ValidationError

from nanogpt_kit.core.options import Component, to_toml_values
from nanogpt_kit.core.registry import Registry


class ComponentConformance:
    """For components of any kind: the options are described, frozen, and survive TOML."""

    component: ClassVar[Component]

    def test_the_file_has_a_docstring(self) -> None:
        assert sys.modules[type(self.component).__module__].__doc__, (
            "the component's file has no docstring: say what it is, and its source"
        )

    def test_every_option_has_a_description(self) -> None:
        for name, option in type(self.component).model_fields.items():
            is_slot = isinstance(option.annotation, type) and issubclass(option.annotation, Component)
            is_described = is_slot or option.description  # a slot is described by its kind
            assert is_described, f"option {name} has no description: add Field(description=...)"

    def test_options_are_frozen(self) -> None:
        hash(self.component)  # fails for lists and dicts, which could change: use tuples
        for name in (*type(self.component).model_fields, "another"):
            with pytest.raises(ValidationError, match="frozen"):
                setattr(self.component, name, None)

    def test_unknown_options_are_refused(self) -> None:
        with pytest.raises(ValidationError, match="no_such_option"):
            type(self.component).model_validate({**self.as_toml(), "no_such_option": 1})

    def test_options_survive_toml(self) -> None:
        text = tomli_w.dumps(self.as_toml())
        assert type(self.component).model_validate(tomli.loads(text)) == self.component

    def as_toml(self) -> dict[str, Any]:
        """The options as in an experiment file."""
        return to_toml_values(self.component, Registry.installed())
