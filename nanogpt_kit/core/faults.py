"""Turns pydantic's errors into faults that name file, line, key, value and the nearest allowed name."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from nanogpt_kit.core.errors import MAX_SHOWN, Fault, Key, KitError, allowed_text, dotted, key_parts
from nanogpt_kit.core.experiment_keys import component_of_list
from nanogpt_kit.core.key_rules import name_of_element
from nanogpt_kit.core.layers import Layers
from nanogpt_kit.core.options import Component, Options, option_classes
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.suggestions import KeySuggestions, means
from nanogpt_kit.core.unused_options import UNUSED
from nanogpt_kit.core.value_remedies import list_example, value_remedy

TOML_TERMS = {  # pydantic's term -> TOML's
    "Input should": "should",
    "String should": "should",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid boolean": "true or false",
    "a valid tuple": "a list",
    "a valid string": "a string",
    "Tuple should have": "should have",
    "items": "elements",
    "item": "element",
}
AFTER_VALIDATION = re.compile(r" after validation, not \d+$")


@dataclass(frozen=True)
class Reason:
    """Why a value was refused: what it should be, what it is, and what to write instead."""

    message: str
    got: str = ""
    remedy: str = ""


def explain_validation_error(
    error: ValidationError, root: type[Options], layers: Layers, registry: Registry
) -> list[Fault]:
    """One fault for each key; where a union refused a value in several ways, the reasons are joined by "or".

    Faults beyond those that a message shows keep pydantic's text: looking for the nearest name takes long.
    """
    reasons: dict[Key, list[Reason]] = {}
    path_faults: dict[Key, Reason] = {}
    suggestions = KeySuggestions(root, layers.values, registry)
    details = [(reported_key(detail, layers), detail) for detail in error.errors(include_url=False)]
    unknown = [key for key, detail in details if detail["type"] == "extra_forbidden"]
    for key, detail in details:
        if detail["type"] == "missing" and is_written_otherwise(key, unknown):
            continue
        if detail["type"] == "too_short" and len(detail["input"]) >= detail["ctx"]["min_length"]:
            continue  # long enough: what it lacks are the elements that are refused themselves
        is_shown = key in reasons or len(reasons) < MAX_SHOWN
        reason = reason_of(detail, key, suggestions, layers.location(key)) if is_shown else Reason(detail["msg"])
        if detail["type"] == "path":  # one path or several: what is wrong with the path matters, not the union
            path_faults[key] = reason
        if reason not in reasons.setdefault(key, []):
            reasons[key].append(reason)
    reasons |= {key: [reason] for key, reason in path_faults.items()}
    faults = [Fault(joined(found), dotted(key), layers.location(key)) for key, found in reasons.items()]
    return layers.made_with.with_versions(faults, layers.values, registry) if layers.made_with else faults


def is_written_otherwise(missing: Key, unknown: Iterable[Key]) -> bool:
    """Whether one of the unknown keys of its table is a spelling, or another program's name, of an option."""
    name = str(missing[-1])
    return any(key[:-1] == missing[:-1] and means(str(key[-1]), name, str(key[0])) for key in unknown)


def joined(reasons: list[Reason]) -> str:
    """One sentence: "should be a whole number or 'auto', got '10k'; write 10000"."""
    first, *others = reasons
    messages = [first.message, *(reason.message.removeprefix("should be ") for reason in others)]
    got = f", got {first.got}" if first.got else ""
    remedies = dict.fromkeys(reason.remedy for reason in reasons if reason.remedy)
    return " or ".join(messages) + got + "".join(f"; {remedy}" for remedy in remedies)


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
        keys = [(*table, *key_parts(key)) for key in (relation["key"], *relation["partners"])]
        detail = {**detail, "loc": max(keys, key=layers.height)}  # the first of those that are equal
    return written_key(detail, layers.values)


def has_part(values: Any, part: str | int) -> bool:
    if isinstance(values, list):
        return isinstance(part, int) and part < len(values)
    return isinstance(values, dict) and part in values


def reason_of(detail: ErrorDetails, key: Key, suggestions: KeySuggestions, location: str) -> Reason:
    """Why the value of `key`, written at `location`, was refused."""
    root, values, registry = suggestions.root, suggestions.values, suggestions.registry
    kind, message, got = detail["type"], detail["msg"], as_toml(detail["input"])
    owner = options_class_at(key[:-1], root, values, registry)
    field = owner.model_fields.get(str(key[-1])) if key else None
    if field and not field.repr:
        got = f"a {type(detail['input']).__name__} that is not shown because it may contain a password"
    if kind in ("kit", "path", UNUSED):
        return Reason(message)
    if kind == "no_use":
        default = field.default if field else None
        return Reason(f"{message}; the default is use = {default!r}" if isinstance(default, str) else message)
    if kind == "extra_forbidden":
        return Reason(unknown_key(key, detail["input"], owner, suggestions))
    if kind == "missing":
        return Reason(missing_key(key, field, registry))
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return Reason("should be a table", got)
    if kind == "tuple_type":
        example = list_example(name_of_element(detail["input"]), key, field.default if field else None, location)
        holds_components = component_of_list(root, key) is not None
        tables = holds_components or (isinstance(detail["input"], dict) and field and option_classes(field.annotation))
        forms = " or ".join(filter(None, [example, f"[[{dotted(key)}]]" if tables else ""]))
        what = "list of components" if holds_components else "list"
        return Reason(f"should be a {what}{f', as in {forms}' if forms else ''}", got)
    for term, toml_term in TOML_TERMS.items():
        message = message.replace(term, toml_term)
    if option := option_with_bad_default(detail, key, root, values, registry):
        component = options_class_at(key, root, values, registry)
        remedy = mistake_in(component, registry) if issubclass(component, Component) else ""
        return Reason(f"the default of its option {option} {message}", got, remedy)
    return Reason(AFTER_VALIDATION.sub("", message), got, value_remedy(detail, str(key[-1]), field))


def option_with_bad_default(
    detail: ErrorDetails, key: Key, root: type[Options], values: Any, registry: Registry
) -> str | None:
    """The option whose default was refused: it is not written, and the location of the error has it."""
    option = detail["loc"][len(key)] if detail["loc"][: len(key)] == key and len(detail["loc"]) > len(key) else None
    fields = options_class_at(key, root, values, registry).model_fields
    return option if isinstance(option, str) and option in fields and key else None


def mistake_in(component: type[Component], registry: Registry) -> str:
    entry = registry.entry_of(component)
    what = entry.origin if entry.is_plugin else "the component"
    return f"this is a mistake in {what}, and giving the option a value avoids it"


def unknown_key(key: Key, value: Any, owner: type[Options], suggestions: KeySuggestions) -> str:
    allowed = set(owner.model_fields)
    if owner is suggestions.root:
        if key == ("extends",):
            return f"is not an option: an experiment file names its base in its first lines, as in extends = {value!r}"
        allowed.add("extends")
    suggestion = suggestions.suggest(key, value, owner, allowed)
    return f"unknown key{f'; {suggestion}' if suggestion else '.'}{allowed_text(allowed)}"


def missing_key(key: Key, field: FieldInfo | None, registry: Registry) -> str:
    if isinstance(key[-1], int):
        return "missing: the list should have more elements"
    base = next((kind for kind in option_classes(field.annotation) if "kind" in vars(kind)), None) if field else None
    if base is not None and issubclass(base, Component):
        names = ", ".join(registry.names(base.kind))
        return f"missing; add [{dotted(key)}] with use = one of: {names}"
    return f"missing{f' ({field.description})' if field and field.description else ''}; it has no default"


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
