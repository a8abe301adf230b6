"""Messages about layers where a list meets one component: options that are dropped, elements that do not exist."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from nanogpt_kit.core.errors import Key, dotted, printable
from nanogpt_kit.core.key_rules import name_of_element
from nanogpt_kit.core.override_text import inline_toml

Location = Callable[[Key], str]


def replacement_note(lower: Any, upper: Any, at: Key, written: Location, replaced: Location) -> str:
    """A note about the options of `lower` that `upper` drops at key `at`; empty where it drops none.

    `written` and `replaced` are the locations of the two.
    """
    if isinstance(upper, list) and is_component(lower):
        dropped = [str(key) for key in lower if key != "use"]
        what, by = f"{lower['use']!r}", "a list"
    elif isinstance(lower, list) and is_element(upper) and all(map(is_element, lower)):
        dropped = [f"{index}.{key}" for index, one in enumerate(lower) for key in options_of_element(one)]
        what, by = f"the list {', '.join(map(str, map(name_of_element, lower)))}", f"{name_of_element(upper)!r}"
    else:
        return ""
    if not dropped:
        return ""
    note = f"{dotted(at)}: {by} ({written(at)}) replaces {what} ({replaced(at)}); dropped its {', '.join(dropped)}"
    return str(printable(note))


def one_component_text(
    component: Any, elements: dict[str, Any], at: Key, is_layered: bool, is_default: bool = False
) -> str:
    """Why `elements` of a list cannot be set where a slot has one component, and what to write instead."""
    name, index = str(name_of_element(component)), next(iter(elements))
    changed = elements[index]
    option = next(iter(changed)) if isinstance(changed, dict) and changed else "use"
    remedy = dotted((*at, option))
    if is_default and isinstance(changed, dict):  # options need the name of their component
        remedy = f"{dotted(at)} = {inline_toml({'use': name, **changed})}"
    which = f"{name}{', the default' * is_default}){' for all layers' * is_layered}"
    message = f"is one component ({which}, so it has no element {index}"
    return f"{message}; write {remedy}, or give a list of components, as in {json.dumps([name, name])}"


def is_component(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("use"), str)


def is_element(value: Any) -> bool:
    return isinstance(value, str) or is_component(value)


def options_of_element(element: Any) -> list[str]:
    return [key for key in element if key != "use"] if isinstance(element, dict) else []
