"""Blocks of the reference: exit codes, verbs, metrics, records on disk, and the names of the Python API."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nanogpt_kit
from blocks.markdown_tables import table
from nanogpt_kit.cli.top_help import SECTIONS
from nanogpt_kit.core import errors
from nanogpt_kit.core.class_source import first_sentence

DOCS = Path(__file__).parents[1]
EXIT_CODES = {  # the constants of core/errors.py
    "DONE": "done; in a comparison, a contender is better; in a check, nothing was found",
    "FAILED": "a run, a check or a test failed",
    "MISTAKE": "a mistake in the request: nothing was trained for it",
    "UNDECIDED": "a comparison cannot decide with these seeds",
    "WORSE": "the contenders of a comparison are worse",
    "BUSY": "another process uses the folder; the same command may succeed later (EX_TEMPFAIL of sysexits.h)",
    "INTERRUPTED": "stopped by Ctrl-C or SIGTERM; the same command, or the one that is printed, continues",
}


def exits_block(_: str) -> str:
    """Every exit code, with its meaning."""
    source = inspect.getsource(errors)
    names = re.findall(r"^([A-Z, ]+) = \d", source, re.MULTILINE)[0].split(", ")
    assert set(names) == EXIT_CODES.keys(), names
    return table(["code", "meaning"], [[f"{getattr(errors, name)}", EXIT_CODES[name]] for name in names])


def verbs_block(_: str) -> str:
    """Every verb of the kit: the sections of its help, its sentence and an example."""
    parts = []
    for section, verbs in SECTIONS.items():
        rows: list[list[object]] = [
            [f"[`{name}`]({link_of(name)})", verb.sentence, f"`{verb.example}`"] for name, verb in verbs.items()
        ]
        parts.append(f"**{section}**\n\n{table(['verb', 'what it does', 'example'], rows)}")
    return "\n".join(parts)


GENERATOR = "TextGenerator"  # which load_run returns
PAGES_OF_VERBS = {
    "running": "run prepare sample eval",
    "experiments": "new check experiments explain schema",
    "comparing": "compare ablate sweep report mup-check",
    "runs": "runs",
    "models-and-machine": "import export bench doctor",
    "plugins": "plugins completion",
}


GROUPS = {"experiments": "experiments-list", "plugins": "plugins-list"}  # groups of verbs and the first of each


def link_of(verb: str) -> str:
    (page,) = (page for page, verbs in PAGES_OF_VERBS.items() if verb in verbs.split())
    return f"/docs/reference/commands/{page}.md#{GROUPS.get(verb, verb)}"


def names_block(arguments: str) -> str:
    """Name and meaning of each entry of a dictionary in the code: `MODULE NAME HEADER`."""
    module, name, header = arguments.split()
    values = getattr(importlib.import_module(module), name)
    return table([header, "meaning"], [[f"`{key}`", meaning] for key, meaning in values.items()])


def record_block(arguments: str) -> str:
    """The fields of typed records: `MODULE CLASS CLASS`, each with its type and the comment behind it."""
    module_name, *names = arguments.split()
    module = importlib.import_module(module_name)
    return "\n".join(fields_of(getattr(module, name)) for name in names)


FORMATS = {  # what has a version: the constant that holds it
    "the JSON records of runs and comparisons": "nanogpt_kit.runs.record FORMAT",
    "a checkpoint, by its `manifest.json`": "nanogpt_kit.checkpoint.manifest FORMAT",
    "`training.pt`": "nanogpt_kit.train.training_state FORMAT",
    "prepared data, by its `manifest.json`": "nanogpt_kit.data.manifest FORMAT_VERSION",
    "what a sweep stores in Optuna's study": "nanogpt_kit.sweep.study.records FORMAT",
}


def formats_block(_: str) -> str:
    """The format version of everything that has one."""
    rows: list[list[object]] = []
    for what, where in FORMATS.items():
        module, name = where.split()
        rows.append([what, getattr(importlib.import_module(module), name)])
    return table(["file", "version"], rows)


def fields_of(record: type) -> str:
    """A sentence and a table: field, type, meaning."""
    source = textwrap.dedent(inspect.getsource(record))
    lines = source.splitlines()
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.ClassDef)
    hints = typing.get_type_hints(record)
    rows: list[list[object]] = []
    for field in node.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and not is_class_var(field):
            comment = re.search(r"  # (.*)$", lines[(field.end_lineno or 1) - 1])
            meaning = comment[1] if comment else described(field) or summary_of(hints[field.target.id])
            assert meaning, f"the field {field.target.id} of {record.__name__} has no comment"
            rows.append([f"`{field.target.id}`", type_text(hints[field.target.id]), meaning])
    summary = first_sentence(inspect.cleandoc(record.__doc__ or ""))
    return f"**{record.__name__}**: {summary}\n\n{table(['field', 'type', 'meaning'], rows)}"


JSON_TYPES = {int: "whole number", float: "number", str: "string", bool: "true or false", type(None): "absent"}


def type_text(hint: Any) -> str:
    """A type in JSON's words."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint in JSON_TYPES:
        return JSON_TYPES[hint]
    if origin is typing.Literal:
        return " or ".join(f'"{part}"' if isinstance(part, str) else f"{part}" for part in parts)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(dict.fromkeys(map(type_text, parts)))
    if origin is typing.Annotated:
        return type_text(parts[0])
    if origin in (list, tuple):
        return f"list: {', '.join(dict.fromkeys(type_text(part) for part in parts if part is not ...))}"
    if origin in (dict, Mapping):
        return f"table of: {type_text(parts[1])}"
    return hint.__name__ if inspect.isclass(hint) else "any value"


def is_class_var(field: ast.AnnAssign) -> bool:
    return "ClassVar" in ast.unparse(field.annotation)


def described(field: ast.AnnAssign) -> str:
    """The description of a field that is made with pydantic's Field."""
    for keyword in getattr(field.value, "keywords", []):
        if keyword.arg == "description" and isinstance(keyword.value, ast.Constant):
            return str(keyword.value.value)
    return ""


def summary_of(hint: Any) -> str:
    """What the record that a field holds says of itself."""
    classes = [
        part for part in (hint, *typing.get_args(hint)) if inspect.isclass(part) and hasattr(part, "model_fields")
    ]
    return first_sentence(inspect.cleandoc(classes[0].__doc__ or "")) if classes else ""


def python_block(names: str) -> str:
    """Signature and docstring of public names of the package, such as `run` and `Run.metrics`."""
    return "\n".join(map(python_entry, names.split()))


def python_entry(name: str) -> str:
    owner, _, member = name.partition(".")
    value = typing.get_type_hints(nanogpt_kit.load_run)["return"] if owner == GENERATOR else getattr(nanogpt_kit, owner)
    if member:
        value = inspect.getattr_static(value, member)
        value = getattr(value, "__func__", value)
    text = inspect.cleandoc(value.__doc__ or "")
    return f"### {name}\n\n```\n{signature_of(name, value)}\n```\n\n{text}\n"


def signature_of(name: str, value: Any) -> str:
    if isinstance(value, property):
        return f"{name}: {inspect.signature(value.fget).return_annotation}"  # type: ignore[arg-type]
    if inspect.isclass(value) and issubclass(value, Exception):
        return f"class {name}({value.__bases__[0].__name__})"
    if inspect.isclass(value) and hasattr(value, "model_fields"):
        return f"class {name}"
    try:
        signature = inspect.signature(value)
    except ValueError:
        return name
    parameters = [parameter for parameter in signature.parameters.values() if parameter.name not in ("self", "cls")]
    text = str(signature.replace(parameters=parameters)).replace("'", "")
    if len(name) + len(text) > 110:
        arguments = ",\n    ".join(str(parameter).replace("'", "") for parameter in parameters)
        text = f"(\n    {arguments},\n){text.rpartition(')')[2]}"
    return f"{name}{text}"


def excerpt_block(arguments: str) -> str:
    """A paragraph of another page and the table after it: `PAGE BEGINNING`, so that figures stand in one place."""
    page, _, beginning = arguments.partition(" ")
    text = (DOCS / page).read_text(encoding="utf-8")
    start = text.index(f"\n{beginning}") + 1
    table_start = text.index("\n|", start)
    end = text.index("\n\n", table_start + 2)
    return text[start:end] + "\n"
