"""Turns pydantic's errors into faults that name file, line, key, value and the nearest allowed name."""

from __future__ import annotations

import reprlib
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from nanogpt_kit.core.errors import MAX_SHOWN, Fault, Key, KitError, allowed_text, dotted
from nanogpt_kit.core.experiment_keys import component_of_list
from nanogpt_kit.core.key_rules import name_of_element
from nanogpt_kit.core.layers import Layers
from nanogpt_kit.core.options import Component, Options, option_classes
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.suggestions import KeySuggestions

TOML_TERMS = {  # pydantic's term -> TOML's
    "Input should": "should",
    "String should": "should",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid boolean": "true or false",
    "a valid tuple": "a list",
    "a valid string": "a string",
}


def explain_validation_error(
    error: ValidationError, root: type[Options], layers: Layers, registry: Registry
) -> list[Fault]:
    """One fault for each key; where a union refused a value in several ways, the reasons are joined by "or".

    Faults beyond those that a message shows keep pydantic's text: looking for the nearest name takes long.
    """
    messages: dict[Key, list[str]] = {}
    path_faults: dict[Key, str] = {}
    suggestions = KeySuggestions(root, layers.values, registry)
    for detail in error.errors(include_url=False):
        key = reported_key(detail, layers)
        is_shown = key in messages or len(messages) < MAX_SHOWN
        message = fault_message(detail, key, suggestions) if is_shown else detail["msg"]
        if detail["type"] == "path":  # one path or several: what is wrong with the path matters, not the union
            path_faults[key] = message
        if message not in messages.setdefault(key, []):
            messages[key].append(message)
    messages |= {key: [message] for key, message in path_faults.items()}
    return [Fault(" or ".join(reasons), dotted(key), layers.location(key)) for key, reasons in messages.items()]


def written_key(detail: ErrorDetails, values: Any) -> Key:
    """The part of the error's location that is in the file; unions append the names of their branches."""
    key: Key = ()
    for part in detail["loc"]:
        if detail["type"] != "missing" and not has_part(values, part):
            break
        values = values[part] if has_part(values, part) else None
        key = (*key, part)
    return key


def reported_key(detail: ErrorDetails, layers: Layers) -> Key:
    """The key in the file that an error is reported at: of a relation's options the one that was written last."""
    relation = detail.get("ctx", {})
    if relation.get("partners"):
        table = detail["loc"][: -len(relation["key"].split("."))]
        keys = [(*table, *key.split(".")) for key in (relation["key"], *relation["partners"])]
        detail = {**detail, "loc": max(keys, key=layers.height)}  # the first of those that are equal
    return written_key(detail, layers.values)


def has_part(values: Any, part: str | int) -> bool:
    if isinstance(values, list):
        return isinstance(part, int) and part < len(values)
    return isinstance(values, dict) and part in values


def fault_message(detail: ErrorDetails, key: Key, suggestions: KeySuggestions) -> str:
    root, values, registry = suggestions.root, suggestions.values, suggestions.registry
    kind, message, got = detail["type"], detail["msg"], as_toml(detail["input"])
    owner = options_class_at(key[:-1], root, values, registry)
    field = owner.model_fields.get(str(key[-1])) if key else None
    if field and not field.repr:
        got = f"a {type(detail['input']).__name__} that is not shown because it may contain a password"
    if kind in ("kit", "path"):
        return message
    if kind == "no_use":
        default = field.default if field else None
        return f"{message}; the default is use = {default!r}" if isinstance(default, str) else message
    if kind == "extra_forbidden":
        allowed = {*owner.model_fields, "extends"} if owner is root else set(owner.model_fields)
        suggestion = suggestions.suggest(key, detail["input"], owner, allowed)
        return f"unknown key{f'; {suggestion}' if suggestion else '.'}{allowed_text(allowed)}"
    if kind == "missing":
        base = (
            next((kind for kind in option_classes(field.annotation) if "kind" in vars(kind)), None) if field else None
        )
        if base is not None and issubclass(base, Component):
            names = ", ".join(sorted(entry.name for entry in registry.of_kind(base.kind)))
            return f"missing; add [{dotted(key)}] with use = one of: {names}"
        return f"missing{f' ({field.description})' if field and field.description else ''}; it has no default"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"should be a table, got {got}"
    if kind == "tuple_type" and component_of_list(root, key):
        use = name_of_element(detail["input"])
        name = use if isinstance(use, str) else "NAME"
        return f"should be a list of components, as in {key[0]}=['{name}'] or [[{key[0]}]], got {got}"
    for term, toml_term in TOML_TERMS.items():
        message = message.replace(term, toml_term)
    return f"{message}, got {got}"


def as_toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value.isoformat()) if hasattr(value, "isoformat") else reprlib.repr(value)


def options_class_at(key: Key, root: type[Options], values: Any, registry: Registry) -> type[Options]:
    """The class whose fields are the keys of the table at `key`."""
    owner = root
    for part in key:
        values = values[part] if has_part(values, part) else None
        if isinstance(part, str):
            field = owner.model_fields.get(part)
            classes = option_classes(field.annotation) if field else []
            if not classes:
                return owner
            owner = classes[0]
        if "kind" in vars(owner) and issubclass(owner, Component) and not isinstance(values, list):
            use = name_of_element(values)
            try:
                owner = registry.load(owner, use) if isinstance(use, str) else owner
            except KitError:
                return owner
    return owner
