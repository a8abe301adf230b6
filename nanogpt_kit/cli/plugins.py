"""`nanogpt-kit plugins`: installed components and their options."""

from __future__ import annotations

import json
import sys
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

import click

from nanogpt_kit.core.errors import KitError, did_you_mean, printable
from nanogpt_kit.core.registry import Entry, Registry

if TYPE_CHECKING:
    from nanogpt_kit.core.options import Component


@click.group()
def plugins() -> None:
    """List the components that experiments can use, and show their options."""


@plugins.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def list_plugins(as_json: bool) -> None:
    """List every installed component, without importing any."""
    entries = Registry.installed().entries
    if as_json:
        click.echo(json.dumps([entry_record(entry) for entry in entries], indent=2))
        return
    for entry in entries:
        click.echo(printable(f"{entry.kind:12} {entry.name:19} {entry.distribution} {entry.version}"))


@plugins.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def show_component(name: str, as_json: bool) -> None:
    """Show the options of component NAME, as in gpt, norm:layernorm or some-distribution/lion."""
    from nanogpt_kit.core.kinds import load_entry

    components = [(entry, load_entry(entry)) for entry in find_entries(name)]
    if as_json:
        records = [{**entry_record(entry), "options": option_records(component)} for entry, component in components]
        click.echo(json.dumps(records, indent=2))
        return
    for entry, component in components:
        click.echo(f"{entry.kind} {entry.name}, from {entry.distribution} {entry.version}\n")
        click.echo((sys.modules[component.__module__].__doc__ or "").strip())
        for option in option_records(component):
            default = "" if option["default"] is None else f" = {json.dumps(option['default'])}"
            needed = ", required" if option["required"] else ", unset by default" if not default else ""
            click.echo(f"\n  {option['name']}{default}   ({option['type']}{option['bounds']}{needed})")
            click.echo(f"      {option['description']}")
        click.echo()


def find_entries(name: str) -> list[Entry]:
    """All components with that name, which may be qualified by kind or distribution. Raises KitError if none has it."""
    entries = Registry.installed().entries
    kind, _, rest = name.rpartition(":")
    matching = [e for e in entries if (not kind or e.kind == kind) and rest in (e.name, e.qualified)]
    if not matching:
        raise KitError(f"no component {name!r} is installed{did_you_mean(rest, {e.name for e in entries})}")
    return matching


def entry_record(entry: Entry) -> dict[str, str]:
    return {key: getattr(entry, key) for key in ("kind", "name", "distribution", "version")}


def option_records(component: type[Component]) -> list[dict[str, Any]]:
    """A record for each option: name, type, bounds, default and description."""
    from pydantic import BeforeValidator  # expands paths, so it is not a bound
    from pydantic_core import to_jsonable_python

    return [
        {
            "name": name,
            "type": type_name(field.annotation),
            "bounds": "".join(
                f", {format_bound(bound)}" for bound in field.metadata if not isinstance(bound, BeforeValidator)
            ),
            "required": field.is_required(),
            "default": None
            if field.is_required()
            else to_jsonable_python(field.get_default(call_default_factory=True)),
            "description": field.description or slot_description(field.annotation),
        }
        for name, field in component.model_fields.items()
    ]


BOUNDS = {  # attributes of pydantic's bounds
    "gt": "> {}",
    "ge": ">= {}",
    "lt": "< {}",
    "le": "<= {}",
    "min_length": "length >= {}",
    "max_length": "length <= {}",
}


def format_bound(bound: Any) -> str:
    texts = [text.format(getattr(bound, name)) for name, text in BOUNDS.items() if hasattr(bound, name)]
    return ", ".join(texts) or repr(bound)


def is_slot(annotation: Any) -> bool:
    return isinstance(annotation, type) and "kind" in vars(annotation)


def slot_description(annotation: Any) -> str:
    """The first line of a kind's docstring, for a slot without a description."""
    return (annotation.__doc__ or "").partition("\n")[0] if is_slot(annotation) else ""


def type_name(annotation: Any) -> str:
    """The kind of a slot; otherwise as in Python, without module names and validators."""
    if is_slot(annotation):
        return f"component of kind {annotation.kind}"
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(inner[0])
    if origin in (Union, UnionType):
        return " | ".join(map(type_name, inner))
    if origin is tuple:
        return f"tuple[{', '.join('...' if part is ... else type_name(part) for part in inner)}]"
    if annotation is type(None):
        return "None"
    if isinstance(annotation, type):
        return annotation.__name__
    return str(annotation).replace("typing.", "")
