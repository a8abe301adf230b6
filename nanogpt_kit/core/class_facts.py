"""What there is to know about the class of a component, as JSON values."""

from __future__ import annotations

import inspect
from typing import Any

from pydantic import ValidationError

from nanogpt_kit.core.describe import component_docstring, component_source, describe_options
from nanogpt_kit.core.options import Component


def class_facts(component: type[Component]) -> dict[str, Any]:
    """Documentation, source, file and options of a component's class, and its defaults that are not valid."""
    options = describe_options(component)
    return {
        "kind": component.kind,
        "class": f"{component.__module__}:{component.__qualname__}",
        "file": inspect.getsourcefile(component) or "",
        "documentation": component_docstring(component),
        "source": component_source(component),
        "options": [vars(option) for option in options],
        "default_faults": default_faults(component),
    }


def default_faults(component: type[Component]) -> list[str]:
    """The defaults that the class itself refuses, each with the reason."""
    try:
        component.model_validate({})
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False)
        return [
            f"{'.'.join(map(str, fault['loc']))} = {fault['input']!r}: {fault['msg']}"
            for fault in faults
            if fault["loc"] and not is_of_user(fault["type"], fault["loc"])
        ]
    return []


def is_of_user(kind: str, location: tuple[int | str, ...]) -> bool:
    """Whether a user has to set an option: one without a default, or one of those of which a validator requires one."""
    return kind == "missing" or (kind == "kit" and len(location) == 1)
