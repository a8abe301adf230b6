"""The options of sections and components, and the words that may be their values, for completion."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BeforeValidator

from nanogpt_kit.core.describe import description_text
from nanogpt_kit.core.option_schema import JsonSchema, default_value, inner_options, option_schemas
from nanogpt_kit.core.options import SLOT_KEYWORD, Options, expand_option


@dataclass(frozen=True)
class OptionWords:
    """One option."""

    help: str
    values: tuple[str, ...]  # all that it may be; empty where they are not listed
    kind: str  # of the components that it takes; empty where it takes none
    is_list: bool  # of such components, and never one
    default: Any  # the component or components that it takes by default
    is_path: bool
    table: dict[str, OptionWords] | None  # the options of the table that it takes


def words_of_options(options: type[Options]) -> dict[str, OptionWords]:
    return {name: option_words(options, name, schema) for name, schema in option_schemas(options).items()}


def option_words(options: type[Options], name: str, schema: JsonSchema) -> OptionWords:
    field, table = options.model_fields[name], inner_options(options, name)
    kind = str(schema.get(SLOT_KEYWORD) or schema.get("items", {}).get(SLOT_KEYWORD) or "")
    return OptionWords(
        help=description_text(options, name),
        values=tuple(dict.fromkeys(listed_values(schema))),
        kind=kind,
        is_list=bool(kind) and SLOT_KEYWORD not in schema,
        default=default_value(options, name) if kind else None,
        is_path=takes_path([field.annotation, *field.metadata]),
        table=words_of_options(table) if table else None,
    )


def listed_values(schema: JsonSchema) -> Iterator[str]:
    """The values of an option, as written on the command line, where its type lists some."""
    for value in [*schema.get("enum", []), *([schema["const"]] if "const" in schema else [])]:
        yield value if isinstance(value, str) else json.dumps(value)
    if schema.get("type") == "boolean":
        yield from ("true", "false")
    for branch in schema.get("anyOf", []):
        yield from listed_values(branch)


def takes_path(parts: Any) -> bool:
    """Whether a type, one of its parts or of what annotates it is PathStr's."""
    for part in parts:
        if isinstance(part, BeforeValidator) and part.func is expand_option:
            return True
        if takes_path(get_args(part)) or takes_path(getattr(part, "__metadata__", ())):
            return True
    return False


def words_from_record(record: dict[str, Any]) -> dict[str, OptionWords]:
    """The options whose `asdict` were written as JSON. Raises TypeError and KeyError for another format."""
    options = {}
    for name, option in record.items():
        table = option["table"]
        changed = {"values": tuple(option["values"]), "table": None if table is None else words_from_record(table)}
        options[name] = OptionWords(**{**option, **changed})
    return options
