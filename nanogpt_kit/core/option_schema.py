"""The JSON Schema of each option, from which descriptions for people and the schema for editors are made."""

from __future__ import annotations

import functools
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import CoreSchema, to_jsonable_python

from nanogpt_kit.core.options import MAY_CHANGE, SLOT_KEYWORD, Component, Options

JsonSchema = dict[str, Any]
DEFINITION = "#/$defs/"


class AnyTypeSchema(GenerateJsonSchema):
    """Types of plugins that JSON Schema cannot express become schemas that accept everything."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}

    def handle_invalid_for_json_schema(self, schema: CoreSchema, error_info: str) -> JsonSchema:
        return {}


@functools.cache
def option_schemas(options: type[Options]) -> dict[str, JsonSchema]:
    """The schema of each option by its name, without default and description: its type and bounds.

    A component slot is {SLOT_KEYWORD: kind}. TOML has no null, so None is left out. A table within a table is written
    out; one that contains itself accepts everything.
    """
    table = options.model_json_schema(schema_generator=AnyTypeSchema)
    definitions = table.get("$defs", {})
    table = definitions[table["$ref"].removeprefix(DEFINITION)] if "$ref" in table else table  # it contains itself
    schemas = {name: written_out(schema, definitions, ()) for name, schema in table.get("properties", {}).items()}
    return {name: without_null(schema) for name, schema in schemas.items()}


def written_out(schema: Any, definitions: dict[str, JsonSchema], within: tuple[str, ...]) -> Any:
    """`schema` with definitions in place of references, and without what describes it to people."""
    if isinstance(schema, list):
        return [written_out(part, definitions, within) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        name = str(schema["$ref"]).removeprefix(DEFINITION)
        return {} if name in within else written_out(definitions.get(name, {}), definitions, (*within, name))
    result: JsonSchema = {}
    for keyword, value in schema.items():
        if keyword == "properties":
            result[keyword] = {name: written_out(part, definitions, within) for name, part in value.items()}
        elif keyword not in ("title", "description", "default", "discriminator", *MAY_CHANGE):
            result[keyword] = value if keyword == "enum" else written_out(value, definitions, within)
    return result


def without_null(schema: JsonSchema) -> JsonSchema:
    """The schema without the branch for None."""
    branches = [branch for branch in schema.get("anyOf", []) if branch != {"type": "null"}]
    if not branches:
        return schema
    rest = {keyword: value for keyword, value in schema.items() if keyword != "anyOf"}
    return {**branches[0], **rest} if len(branches) == 1 else {"anyOf": branches, **rest}


def default_value(options: type[Options], name: str) -> Any:
    """The default of an option as a JSON value; None for none."""
    field = options.model_fields[name]
    if field.is_required():
        return None
    return to_jsonable_python(field.get_default(call_default_factory=True), serialize_unknown=True)


def slot_kind(schema: JsonSchema) -> str | None:
    """The kind of the components that an option takes, one or a list of them; None for another option."""
    kind = schema.get(SLOT_KEYWORD) or schema.get("items", {}).get(SLOT_KEYWORD)
    return str(kind) if kind else None


def inner_options(options: type[Options], name: str) -> type[Options] | None:
    """The class of the table that an option takes, such as Train; None for another option and for component slots."""
    annotation = options.model_fields[name].annotation
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    only = [part for part in parts if part is not type(None)]
    is_table = len(only) == 1 and isinstance(only[0], type) and issubclass(only[0], Options)
    return only[0] if is_table and not issubclass(only[0], Component) else None


def element_options(options: type[Options], name: str) -> type[Options] | None:
    """The class of the tables in the list that an option takes, such as ParameterGroup; None for any other option."""
    annotation = options.model_fields[name].annotation
    of_list = get_args(annotation)[:1] if get_origin(annotation) is tuple else ()
    tables = [part for part in of_list if isinstance(part, type) and issubclass(part, Options)]
    return tables[0] if tables and not issubclass(tables[0], Component) else None
