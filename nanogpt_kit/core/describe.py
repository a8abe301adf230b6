"""Options, sections and components described for people, in TOML's words."""

from __future__ import annotations

import functools
import inspect
import json
import re
import sys
from dataclasses import dataclass
from typing import Any

from nanogpt_kit.core.option_schema import JsonSchema, default_value, option_schemas
from nanogpt_kit.core.options import LISTED_KEYWORD, MAY_CHANGE, SLOT_KEYWORD, Component, Options, option_classes

TYPES = {  # of JSON Schema -> in TOML's words: of one value, of the elements of a list
    "integer": ("whole number", "whole numbers"),
    "number": ("number", "numbers"),
    "boolean": ("true or false", "true or false"),
    "string": ("string", "strings"),
    "array": ("list", "lists"),
    "object": ("table", "tables"),
}
BOUNDS = {  # of JSON Schema
    "exclusiveMinimum": "above",
    "minimum": "at least",
    "maximum": "at most",
    "exclusiveMaximum": "below",
    "multipleOf": "a multiple of",
}
UNITS = {"steps": "steps", "tokens": "tokens", "seconds": "seconds", "bytes": "bytes", "mb": "MB"}  # suffix -> unit
MIN_POWER = 10**6  # a power of two or ten from here on is written as such
SOURCE = re.compile(r"(?:^|(?<=\s))Source: (.*?)(?=\n\s*\n|\Z)", re.DOTALL)  # in a docstring


@dataclass(frozen=True)
class OptionDescription:
    """One option of a section or a component; what is empty or None does not apply."""

    name: str
    type: str
    bounds: str
    unit: str
    required: bool
    default: Any  # a JSON value
    description: str
    may_change_on_resume: bool

    @property
    def type_and_bounds(self) -> str:
        return f"{self.type}, {self.bounds}" if self.bounds else self.type


@functools.cache
def describe_options(options: type[Options], may_change: bool = False) -> tuple[OptionDescription, ...]:
    """Every option of a class, in its order; `may_change`: on resume, as the table that they are in."""
    return tuple(
        OptionDescription(
            name=name,
            type=type_text(schema),
            bounds=bounds_text(schema),
            unit=unit_text(name, schema),
            required=options.model_fields[name].is_required(),
            default=default_value(options, name),
            description=description_text(options, name),
            may_change_on_resume=may_change or options.model_fields[name].json_schema_extra == MAY_CHANGE,
        )
        for name, schema in option_schemas(options).items()
    )


def description_text(options: type[Options], name: str) -> str:
    """The description of an option; else the first line of the docstring of its kind or section."""
    field = options.model_fields[name]
    classes = [part for part in option_classes(field.annotation) if part.__doc__]
    return str(field.description or (section_summary(classes[0]) if classes else ""))


def section_summary(options: type[Options]) -> str:
    """The first line of a kind's or a section's docstring, without the section's name in brackets."""
    return re.sub(r"^\[\w+\]: ", "", inspect.cleandoc(options.__doc__ or "").partition("\n")[0])


def component_docstring(component: type[Component]) -> str:
    """What a component's class says about itself; else what its module says."""
    return class_docstring(component) or module_docstring(component)


def class_docstring(component: type[Component]) -> str:
    """The docstring of the class itself, and of none that it derives from."""
    return inspect.cleandoc(vars(component).get("__doc__") or "")


def module_docstring(component: type[Component]) -> str:
    return inspect.cleandoc(getattr(sys.modules.get(component.__module__), "__doc__", None) or "")


def component_source(component: type[Component]) -> str:
    """The publication or program that a component follows, as its class or else its module names it; or empty."""
    match = SOURCE.search(class_docstring(component)) or SOURCE.search(module_docstring(component))
    return " ".join(match[1].split()) if match else ""


def unit_text(name: str, schema: JsonSchema) -> str:
    return UNITS.get(name.rpartition("_")[2], "") if schema.get("type") in ("integer", "number") else ""


def type_text(schema: JsonSchema, index: int = 0) -> str:
    """The type of a value (`index` 0) or of the elements of a list (1)."""
    if SLOT_KEYWORD in schema:
        several = ", or a list of them" if LISTED_KEYWORD in schema else ""
        several += f" that {text}" if (text := schema.get(LISTED_KEYWORD)) else ""
        return f"component{'s' * index} of kind {schema[SLOT_KEYWORD]}{several}"
    if "const" in schema or "enum" in schema:
        return any_of([json.dumps(value, ensure_ascii=False) for value in schema.get("enum", [schema.get("const")])])
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " or ".join(dict.fromkeys(bounded_type_text(branch, index) for branch in schema[union]))
    if schema.get("type") != "array":
        return TYPES.get(str(schema.get("type")), ("any value", "any values"))[index]
    word = TYPES["array"][index]
    if "prefixItems" in schema:
        elements = schema["prefixItems"]
        if all(element == elements[0] for element in elements):
            return f"{word} of {len(elements)} {bounded_type_text(elements[0], 1)}"
        return f"{word}: {', '.join(map(bounded_type_text, elements))}"
    return f"{word} of {bounded_type_text(schema['items'], 1)}" if schema.get("items") else word


def bounded_type_text(schema: JsonSchema, index: int = 0) -> str:
    bounds = bounds_text(schema)
    each = "each " if index else ""
    return type_text(schema, index) + (f" ({each}{bounds})" if bounds else "")


def bounds_text(schema: JsonSchema) -> str:
    """The bounds of a value: "at least 0 and below 1"."""
    bounds = {word: number_text(schema[keyword]) for keyword, word in BOUNDS.items() if keyword in schema}
    texts: list[str] = []
    if "at least" in bounds and "at most" in bounds:
        texts.append(f"{bounds.pop('at least')} to {bounds.pop('at most')}")
    texts += [f"{word} {number}" for word, number in bounds.items()]
    if "prefixItems" not in schema:
        texts += length_texts(schema.get("minLength"), schema.get("maxLength"), "characters")
        texts += length_texts(schema.get("minItems"), schema.get("maxItems"), "elements")
    if "pattern" in schema:
        texts.append(f"matching {schema['pattern']}")
    return " and ".join(texts)


def length_texts(low: int | None, high: int | None, what: str) -> list[str]:
    least = ["not empty"] if low == 1 else [f"at least {low:,} {what}"] if low else []
    return least + ([f"at most {high:,} {what}"] if high is not None else [])


def number_text(value: float) -> str:
    """A number as in "10,000", "2^20" and "0.5"."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int):
        return repr(value)
    if value >= MIN_POWER and value & (value - 1) == 0:
        return f"2^{value.bit_length() - 1}"
    if value >= MIN_POWER and str(value).strip("0") == "1":
        return f"10^{len(str(value)) - 1}"
    return f"{value:,}"


def any_of(texts: list[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} or {texts[-1]}"
