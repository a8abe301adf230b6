"""A JSON Schema of experiment files with all that is installed, so that editors complete and check them.

It keeps to what Draft 4 and 2020-12 read alike: taplo implements the one, other editors the other. Two parts apply to
each file. The first checks what is written: keys, types, bounds, options of the component that `use` names. The second
checks what is absent or unknown, and holds only without `extends`, since a base may set the rest; without `components`
it also knows every name that `use` may have.

What a schema cannot express is left to the loader. It never refuses what the loader accepts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from nanogpt_kit.core.describe import component_docstring, describe_options
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.found_components import FoundComponent, components_of_kind, importable_plugins
from nanogpt_kit.core.kinds import KINDS
from nanogpt_kit.core.option_schema import JsonSchema, inner_options, option_schemas, slot_kind
from nanogpt_kit.core.options import LISTED_KEYWORD, SLOT_KEYWORD, Options
from nanogpt_kit.core.registry import Registry

TITLE = "Experiment of nanogpt-kit"
EXTENDS = "experiment that this one builds on: a file, relative to this one, or the name of a shipped experiment"
INDEX = "^[0-9]+$"  # `callback.0.every_steps` is an option of an element of a list that a base file has
TABLE: JsonSchema = {"type": "object", "additionalProperties": False}
ANYTHING: JsonSchema = {"type": "object", "additionalProperties": True}


def experiment_schema() -> dict[str, Any]:
    """The JSON Schema of an experiment file. Components that cannot be imported are left out, with a warning."""
    definitions: JsonSchema = {}
    for kind in KINDS:
        definitions[kind] = written_slot(kind)
        definitions[f"complete-{kind}"] = complete_slot(kind)
        definitions[f"known-{kind}"] = known_slot(kind)
    table = table_schema(Experiment)
    table["properties"] = {"extends": {"type": "string", "description": EXTENDS}, **table["properties"]}
    is_extension = {**ANYTHING, "required": ["extends"]}
    has_components = {**ANYTHING, "required": ["components"]}
    known = [has_components, constraints(Experiment, "known")]
    return {
        "title": TITLE,
        **table,
        "anyOf": [is_extension, {**constraints(Experiment, "complete"), "anyOf": known}],
        "definitions": definitions,
    }


def usable_components(kind: str) -> tuple[FoundComponent, ...]:
    plugins = frozenset(entry for entry in Registry.installed().entries if entry.is_plugin and entry.kind in KINDS)
    return components_of_kind(kind, importable_plugins(plugins))


# What is written


def table_schema(options: type[Options], use: JsonSchema | None = None) -> JsonSchema:
    """The table of a section, or, with the schema of `use`, of a component. No key is required."""
    described = {option.name: option for option in describe_options(options)}
    properties = {} if use is None else {"use": use}
    for name, schema in option_schemas(options).items():
        inner = inner_options(options, name)
        written = for_editors(schema) if inner is None else table_schema(inner)
        option = described[name]
        text = f"{option.description}\n\n{option.type_and_bounds}" if inner is None else option.description
        properties[name] = {**written, "description": text}
        if is_insertable(option.default):
            properties[name]["default"] = option.default
    required = {"required": ["use"]} if use else {}
    return {**TABLE, "properties": properties, **required}


def is_insertable(default: Any) -> bool:
    """Whether an editor can insert it: TOML has no null, and line breaks would be inserted as they are."""
    return not isinstance(default, dict | None) and str(default).isprintable() and "\\" not in json.dumps(default)


def written_slot(kind: str) -> JsonSchema:
    """A component by its name or as a table; of one whose `use` a base file may set, the options of all of its kind."""
    components = usable_components(kind)
    tables = [table_schema(found.component, use_schema(found)) for found in components]
    unknown = name_except(components)
    return {
        "anyOf": [
            *(use_schema(found) for found in components),
            unknown,
            *tables,
            {**TABLE, "properties": merged_options(tables)},
            {**ANYTHING, "properties": {"use": unknown}, "required": ["use"]},
        ]
    }


def use_schema(found: FoundComponent) -> JsonSchema:
    summary = component_docstring(found.component).partition("\n")[0]
    return {"type": "string", "enum": names_of(found), "description": summary}


def names_of(found: FoundComponent) -> list[str]:
    """The names by which an experiment may choose a component."""
    entry = found.entry
    return list(dict.fromkeys([Registry.installed().shortest_name(entry), entry.qualified]))


def names_in(components: Iterable[FoundComponent]) -> list[str]:
    return [name for found in components for name in names_of(found)]


def name_except(components: Iterable[FoundComponent]) -> JsonSchema:
    """Any name except those of some components."""
    names = names_in(components)
    return {"type": "string", "not": {"enum": names}} if names else {"type": "string"}


def merged_options(tables: Iterable[JsonSchema]) -> JsonSchema:
    """The options that some table has, `use` excepted; each may be as in any of them."""
    versions: dict[str, list[JsonSchema]] = {}
    for table in tables:
        for name, schema in table["properties"].items():
            if name != "use" and schema not in versions.setdefault(name, []):
                versions[name].append(schema)
    return {name: found[0] if len(found) == 1 else {"anyOf": found} for name, found in versions.items()}


def for_editors(schema: JsonSchema) -> JsonSchema:
    """The schema of one value in the words that Draft 4 and 2020-12 share."""
    if SLOT_KEYWORD in schema:
        one = {"$ref": f"#/definitions/{schema[SLOT_KEYWORD]}"}
        return one_or_list(schema[SLOT_KEYWORD], one) if LISTED_KEYWORD in schema else one
    result = {keyword: translated(keyword, value) for keyword, value in schema.items()}
    excluded: list[JsonSchema] = []  # exclusive bounds are flags in Draft 4, numbers later
    if "exclusiveMinimum" in result:
        result["minimum"] = result.pop("exclusiveMinimum")
        excluded.append({"maximum": result["minimum"]})
    if "exclusiveMaximum" in result:
        result["maximum"] = result.pop("exclusiveMaximum")
        excluded.append({"minimum": result["maximum"]})
    if excluded:
        result["not"] = {"anyOf": excluded}
    if "const" in result:
        result["enum"] = [result.pop("const")]
    if "prefixItems" in result:  # `items` in Draft 4
        elements = result.pop("prefixItems")
        result["items"] = elements[0] if all(one == elements[0] for one in elements) else {"anyOf": elements}
    if result.get("type") == "object":
        result.setdefault("additionalProperties", True)
    if result.get("type") != "array":
        return result
    element = result.get("items") or {}
    kind = slot_kind(schema)
    return {"anyOf": [result, elements_table(kind) if kind else {**TABLE, "patternProperties": {INDEX: element}}]}


def one_or_list(kind: str, one: JsonSchema) -> JsonSchema:
    """One component, a list of them, or, of a list in a base file, a table with elements by index or by name."""
    elements = {
        "type": "object",
        "properties": {name: changes_of(found) for found in usable_components(kind) for name in names_of(found)},
        "patternProperties": {INDEX: one},
        "additionalProperties": ANYTHING,  # of components in local files
        "not": {"required": ["use"]},
    }
    return {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}, elements]}


def elements_table(kind: str) -> JsonSchema:
    """A table that sets options of components in a list: `[callback.console]`, `sampler.temperature = 0.6`."""
    by_name: JsonSchema = {}
    for found in usable_components(kind):
        table = changes_of(found)
        options = [schema for name, schema in table["properties"].items() if name != "use"]
        by_name |= dict.fromkeys(names_of(found), {"anyOf": [table, *options]} if len(options) == 1 else table)
    by_index = {INDEX: {"$ref": f"#/definitions/{kind}"}}
    return {**ANYTHING, "properties": by_name, "patternProperties": by_index, "not": {"required": ["use"]}}


def changes_of(found: FoundComponent) -> JsonSchema:
    """Options of a component in a list, and perhaps another name."""
    return {**TABLE, "properties": table_schema(found.component, {"type": "string"})["properties"]}


def translated(keyword: str, value: Any) -> Any:
    if keyword == "properties":
        return {name: for_editors(schema) for name, schema in value.items()}
    if keyword in ("anyOf", "oneOf", "allOf", "prefixItems"):
        return [for_editors(schema) for schema in value]
    return for_editors(value) if keyword in ("items", "additionalProperties") and isinstance(value, dict) else value


# What is absent or unknown


def constraints(options: type[Options], part: str) -> JsonSchema:
    """Of a table that no base file completes: `part` is "complete", what it needs, or "known", the names it may use."""
    properties: JsonSchema = {}
    for name, schema in option_schemas(options).items():
        kind, inner = slot_kind(schema), inner_options(options, name)
        if kind:
            one = {"$ref": f"#/definitions/{part}-{kind}"}
            names: JsonSchema = {name: {} for name in names_in(usable_components(kind))}
            known = {**TABLE, "properties": names, "patternProperties": {INDEX: {}}}
            elements = [{"type": "array", "items": one}, known if part == "known" else ANYTHING]
            if SLOT_KEYWORD in schema:
                properties[name] = {"anyOf": [one, elements[0]]} if LISTED_KEYWORD in schema else one
            else:
                properties[name] = {"anyOf": elements}
        elif inner:
            properties[name] = constraints(inner, part)
    required = [name for name, field in options.model_fields.items() if field.is_required()]
    needs = {"required": required} if part == "complete" and required else {}
    return {**ANYTHING, "properties": properties, **needs}


def complete_slot(kind: str) -> JsonSchema:
    """A slot that names its component and every option that has no default."""
    components = usable_components(kind)
    alone = name_except(found for found in components if needs_options(found))
    free = name_except(found for found in components if has_constraints(found))
    tables = [complete_table(found) for found in components if has_constraints(found)]
    return {"anyOf": [alone, *tables, {**ANYTHING, "properties": {"use": free}, "required": ["use"]}]}


def needs_options(found: FoundComponent) -> bool:
    return any(field.is_required() for field in found.component.model_fields.values())


def has_constraints(found: FoundComponent) -> bool:
    return needs_options(found) or any(map(slot_kind, option_schemas(found.component).values()))


def complete_table(found: FoundComponent) -> JsonSchema:
    table = constraints(found.component, "complete")
    properties = {"use": {"enum": names_of(found)}, **table["properties"]}
    return {**table, "properties": properties, "required": ["use", *table.get("required", [])]}


def known_slot(kind: str) -> JsonSchema:
    """A slot whose component is installed."""
    components = usable_components(kind)
    if not components:
        return {}
    name: JsonSchema = {"enum": names_in(components)}
    inner: JsonSchema = {}
    for found in components:
        inner |= constraints(found.component, "known")["properties"]
    return {"anyOf": [name, {**ANYTHING, "properties": {"use": name, **inner}}]}
