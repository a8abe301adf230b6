"""What merging layers must know about keys, and how an element of a list is addressed: by index or by name."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Sequence
from typing import Any

from nanogpt_kit.core.errors import Fault, Key, KitError, dotted
from nanogpt_kit.core.foreign_component_names import did_you_mean_component


class KeyRules:
    """What the values do not show about their keys; by default there is nothing to know."""

    def is_free_form(self, key: Key, over_list: bool) -> bool:
        """Whether the keys of a table at `key` are free names, so that none of them addresses an element of a list.

        `over_list`: a lower layer has a list there.
        """
        return False

    def default_list(self, key: Key) -> list[Any] | None:
        """The list at `key` where no layer writes one; None where there is none whose elements can be addressed."""
        return None

    def component_names(self, key: Key, values: dict[str, Any]) -> Collection[str]:
        """The names that an element of the list at `key` may have; `values` are those of the lower layers."""
        return ()

    def default_component(self, key: Key, values: dict[str, Any]) -> str | None:
        """The component in the slot of one or a list at `key` where no layer writes one, as in `is_listed`."""
        return None

    def takes_component(self, key: Key) -> bool:
        """Whether one component may replace the list at `key`, as in the slots of a model's layers."""
        return True

    def is_listed(self, key: Key, values: dict[str, Any]) -> bool:
        """Whether a slot of one component or a list is at `key`; `values` are those of the lower layers."""
        return False

    def is_layered(self, key: Key, values: dict[str, Any]) -> bool:
        """Whether it is one of a model's layers, as in `is_listed`."""
        return False

    def is_same_component(self, one: str, other: str) -> bool:
        """Whether two names mean one component, as NAME and DISTRIBUTION/NAME may."""
        return one == other

    def option_names(self, key: Key, name: str) -> Sequence[str] | None:
        """The options of the component `name` of the list at `key`; None where they are not known yet."""
        return None


def is_element_table(value: Any) -> bool:
    """Whether a table may address elements of a list; one with `use` is a component where a list is expected."""
    return isinstance(value, dict) and bool(value) and "use" not in value


def name_of_element(element: Any) -> Any:
    return element.get("use") if isinstance(element, dict) else element


def addressed_element(
    rules: KeyRules, elements: list[Any], part: str, value: Any, at: Key, values: dict[str, Any]
) -> tuple[int, str | None]:
    """(index of the element that `part`, the next part of a key, addresses; the option of it that `value` is for).

    The index is the list's length for a component that may be appended. There is no option where `value` is for the
    element itself. Raises KitError.
    """
    if part.isdecimal() and int(part) < len(elements):
        return int(part), None
    if rules.is_listed(at, values):
        return index_of_element(rules, elements, part, value, at, values), None
    named = [index for index, element in enumerate(elements) if is_named(element, part)]
    if len(named) > 1:
        forms = " or ".join(f"{dotted(at)}.{index}" for index in named)
        raise KitError(Fault(f"the list has {len(named)} components of this name; write {forms}", dotted((*at, part))))
    names = rules.component_names(at, values)
    if not named and part not in names:
        allowed = f"an index from 0 to {len(elements) - 1}" if elements else "left out: the list is empty"
        if names:
            allowed = f"{allowed} or a component's name" if elements else "a component's name"
        guess = did_you_mean_component(str(at[-1]), part, names) if names else ""
        message = f"is a list, so the next part of the key should be {allowed}, got {part!r}{guess}"
        raise KitError(Fault(message, dotted(at)))
    if named and value is False:
        rest = json.dumps([name_of_element(element) for element in elements if not is_named(element, part)])
        message = f"to leave a component out, give the list without it: {shlex.quote(f'{dotted(at)}={rest}')}"
        raise KitError(Fault(message, dotted((*at, part))))
    option = None if isinstance(value, dict) else only_option(rules, (*at, part))
    return named[0] if named else len(elements), option


def index_of_element(
    rules: KeyRules, elements: list[Any], part: str, value: Any, at: Key, values: dict[str, Any]
) -> int:
    """The index of the element that `part` names, of the list in a slot that also takes one. Raises KitError."""
    named = [index for index, element in enumerate(elements) if is_named(element, part)]
    key, option = dotted(at), next(iter(value), "OPTION") if isinstance(value, dict) else "OPTION"
    if len(named) == 1 and isinstance(value, dict):
        return named[0]
    if named:
        count = f"the list has {len(named)} components of this name" if len(named) > 1 else "is a component"
        raise KitError(Fault(f"{count}; write {key}.{named[0]}.{option}", f"{key}.{part}"))
    allowed = f"an index from 0 to {len(elements) - 1}" if len(elements) > 1 else "the index 0"
    is_layered = rules.is_layered(at, values)
    repeated, for_all = (", repeated over the layers", " for all layers") if is_layered else ("", "")
    message = f"is a list{repeated}, so the next part of the key should be {allowed}, got {part!r}"
    if part.isdecimal():
        remedy = "to add a component, give the whole list"
    elif part.startswith("-"):
        raise KitError(Fault(message, key))
    elif part in rules.component_names(at, values):
        remedy = f"write {key}={part}{for_all}, or give a list with it"
    else:
        first = name_of_element(elements[0])
        alone = f"{key}={first} first,{for_all}" if is_layered else f"{key}={first} first, without the others"
        remedy = f"write {key}.0.{part} for the first component ({first}), or {alone}"
    raise KitError(Fault(f"{message}; {remedy}", key))


def is_named(element: Any, name: str) -> bool:
    use = name_of_element(element)
    return isinstance(use, str) and name in (use, use.rpartition("/")[2])


def only_option(rules: KeyRules, element: Key) -> str:
    """The option of a component that `sampler.temperature = 0.6` sets. Raises KitError where it has not just one."""
    key = dotted(element)
    options = rules.option_names(element[:-1], str(element[-1]))
    if options is None:
        raise KitError(Fault(f"is a component, so the key should name an option as well: {key}.OPTION", key))
    if not options:
        raise KitError(Fault(f"is a component without options; {key}={{}} appends it to the list", key))
    if len(options) > 1:
        keys = ", ".join(f"{key}.{option}" for option in options)
        raise KitError(Fault(f"is a component with several options; set one of {keys}, or {key}={{}} for none", key))
    return options[0]
