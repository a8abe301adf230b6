"""Blocks of the page of the API: a line for each name."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

from blocks.markdown_tables import table
from nanogpt_kit import api
from nanogpt_kit.core import kinds
from nanogpt_kit.core.class_source import first_sentence
from nanogpt_kit.core.options import Component

DOCS = Path(__file__).parents[1]
STARS: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
OTHER_NAMES = {  # of the api, without a docstring of ours
    "Document": "What a dataset yields: a text, or a `MarkedText`.",
    "Field": "The default, bounds and description of an option: pydantic's.",
    "Layered": "The type of an option that takes one component, or a list that is repeated over the layers.",
    "PathStr": "The type of an option that is a path: `~` and environment variables are replaced.",
    "hookimpl": "Marks the methods of a callback that implement hooks: pluggy's.",
    "model_validator": "Marks a method that checks options that depend on each other: pydantic's.",
}


def api_block(names: str) -> str:
    """A line for each of these names of the api: `PAGE: NAME NAME; PAGE: NAME`; PAGE may be `kinds`.

    A page of the guide or of extending is named without its folder.
    """
    rows: list[list[object]] = []
    for group in names.split("; "):
        page, _, listed = group.partition(": ")
        for name in listed.split():
            where = f"kinds/{kind_of(name)}" if page == "kinds" else page
            (path,) = DOCS.glob(f"reference/{where}.md") if "/" in where else DOCS.glob(f"[eg]*/{where}.md")
            link = f"[{where}](/docs/{path.relative_to(DOCS).as_posix()})"
            rows.append([f"`{api_signature(name)}`", api_summary(name), link])
    return table(["name", "what it is", "page"], rows)


def kind_of(name: str) -> str:
    (kind,) = [kind for kind, base in kinds.KINDS.items() if base is getattr(api, name)]
    return kind


def api_signature(name: str) -> str:
    """How a name is used: the methods that a component has to implement, the fields of a context, or the arguments."""
    value = getattr(api, name)
    if inspect.isclass(value) and issubclass(value, Component):
        required = sorted(getattr(value, "__abstractmethods__", ()))
        methods = [f"{method}({', '.join(arguments_of(getattr(value, method)))})" for method in required]
        return f"{name}: {', '.join(methods)}" if methods else name
    if dataclasses.is_dataclass(value):
        return f"{name}({', '.join(field.name for field in dataclasses.fields(value))})"
    if is_of_kit(value) and (inspect.isfunction(value) or "__init__" in vars(value)) and not is_protocol(value):
        return f"{name}({', '.join(arguments_of(value))})"
    return name


def arguments_of(function: Any) -> list[str]:
    if isinstance(function, property):
        return []
    parameters = [one for one in inspect.signature(function).parameters.values() if one.name != "self"]
    return [STARS.get(one.kind, "") + one.name for one in parameters]


def is_of_kit(value: Any) -> bool:
    return str(getattr(value, "__module__", "")).startswith("nanogpt_kit")


def is_protocol(value: Any) -> bool:
    return bool(getattr(value, "_is_protocol", False))


def api_summary(name: str) -> str:
    """The first sentence of its docstring; of what has none, what is written here."""
    value = getattr(api, name)
    is_documented = is_of_kit(value) and (inspect.isclass(value) or inspect.isfunction(value))
    return first_sentence(inspect.getdoc(value) or "") if is_documented else OTHER_NAMES[name]
