"""`nanogpt-kit plugins`: what is installed, and what its options are."""

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
    """Components that experiments can name, built in or installed."""


@plugins.command("list")
@click.option("--json", "as_json", is_flag=True, help="A JSON list.")
def list_plugins(as_json: bool) -> None:
    """List every installed component. Reads metadata only: nothing is imported."""
    entries = Registry.installed().entries
    if as_json:
        click.echo(json.dumps([identity(entry) for entry in entries], indent=2))
        return
    for entry in entries:
        click.echo(printable(f"{entry.kind:12} {entry.name:19} {entry.distribution} {entry.version}"))


@plugins.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="A JSON list.")
def show(name: str, as_json: bool) -> None:
    """Show the options of NAME, as in gpt, norm:layernorm or some-distribution/lion."""
    from nanogpt_kit.core.kinds import load_entry

    shown = [(entry, load_entry(entry)) for entry in matching(name)]
    if as_json:
        click.echo(json.dumps([{**identity(entry), "options": options(found)} for entry, found in shown], indent=2))
        return
    for entry, found in shown:
        click.echo(f"{entry.kind} {entry.name}, from {entry.distribution} {entry.version}\n")
        click.echo((sys.modules[found.__module__].__doc__ or "").strip())
        for option in options(found):
            default = "" if option["required"] else f" = {json.dumps(option['default'])}"
            click.echo(f"\n  {option['name']}{default}   ({option['type']}{option['bounds']})")
            click.echo(f"      {option['description']}")
        click.echo()


def matching(name: str) -> list[Entry]:
    """The entries that a name, qualified by kind or distribution or not at all, may mean. Raises KitError."""
    entries = Registry.installed().entries
    kind, _, rest = name.rpartition(":")
    found = [e for e in entries if (not kind or e.kind == kind) and rest in (e.name, e.qualified)]
    if not found:
        raise KitError(f"no component {name!r} is installed{did_you_mean(rest, {e.name for e in entries})}")
    return found


def identity(entry: Entry) -> dict[str, str]:
    return {key: getattr(entry, key) for key in ("kind", "name", "distribution", "version")}


def options(component: type[Component]) -> list[dict[str, Any]]:
    """One entry an option: name, type, bounds, default and description."""
    from pydantic import BeforeValidator  # which expands a path, and is not a bound
    from pydantic_core import to_jsonable_python

    return [
        {
            "name": name,
            "type": type_name(field.annotation),
            "bounds": "".join(
                f", {bound_words(bound)}" for bound in field.metadata if not isinstance(bound, BeforeValidator)
            ),
            "required": field.is_required(),
            "default": None
            if field.is_required()
            else to_jsonable_python(field.get_default(call_default_factory=True)),
            "description": field.description or kind_description(field.annotation),
        }
        for name, field in component.model_fields.items()
    ]


def bound_words(bound: Any) -> str:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    return next((f"{sign} {getattr(bound, name)}" for name, sign in signs.items() if hasattr(bound, name)), repr(bound))


def is_slot(annotation: Any) -> bool:
    return isinstance(annotation, type) and "kind" in vars(annotation)


def kind_description(annotation: Any) -> str:
    """What a slot is for: the first line that its kind says of itself."""
    return (annotation.__doc__ or "").partition("\n")[0] if is_slot(annotation) else ""


def type_name(annotation: Any) -> str:
    """A slot reads as its kind; the rest as Python writes it, without module names and validators."""
    if is_slot(annotation):
        return f"component of kind {annotation.kind}"
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(inner[0])
    if origin in (Union, UnionType):
        return " | ".join(map(type_name, inner))
    if origin is tuple:
        return f"tuple[{', '.join('...' if one is ... else type_name(one) for one in inner)}]"
    if annotation is type(None):
        return "None"
    if isinstance(annotation, type):
        return annotation.__name__
    return str(annotation).replace("typing.", "")
