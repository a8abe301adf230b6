"""What the drawings of the code are drawn from: its imports, definitions, calls, options and modules.

Each function raises AssertionError where the code is not what a drawing says, so that a drawing cannot be made then.
"""

from __future__ import annotations

import ast
import configparser
from collections import Counter
from functools import cache
from pathlib import Path

import torch
from blocks.code_blocks import definition, lines_of
from torch import nn

from nanogpt_kit import Experiment

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "nanogpt_kit"
VOCABULARY = 257  # of byte tokens and end-of-text: that of experiments/quickstart.toml


@cache
def rooms() -> tuple[str, ...]:
    """The packages of the kit from top to bottom: the layers of its import contract, and beside them the components."""
    contract = configparser.ConfigParser()
    contract.read(ROOT / ".importlinter", encoding="utf-8")
    lines = contract["importlinter:contract:layers"]["layers"].split()
    found = [line for line in lines if line not in ("__main__", "|")]
    found.insert(found.index("api"), "components")
    return tuple(found)


@cache
def imports_between_rooms() -> Counter[tuple[str, str]]:
    """How many modules of one room import another one: {("cli", "core"): 31, ...}."""
    counts: Counter[tuple[str, str]] = Counter()
    for path in PACKAGE.rglob("*.py"):
        room = room_of(path.relative_to(ROOT).with_suffix("").parts)
        if room is not None:
            imported = {room_of(tuple(name.split("."))) for name in imported_modules(path)}
            counts.update((room, other) for other in imported if other not in (None, room))
    return counts


def room_of(parts: tuple[str, ...]) -> str | None:
    return parts[1] if len(parts) > 1 and parts[0] == "nanogpt_kit" and parts[1] in rooms() else None


def imported_modules(path: Path) -> set[str]:
    """The modules that a file imports anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
    return found


def require_text(path: str, name: str, *texts: str) -> None:
    """That the definition of a name contains these pieces of code, in this order."""
    node = definition(path, name)
    rest = "\n".join(lines_of(path)[node.lineno - 1 : node.end_lineno])
    for text in texts:
        _, found, rest = rest.partition(text)
        assert found, f"{name} in {path} has no {text!r} where a drawing says so"


def require_option(owner: type, *names: str) -> None:
    """That a section or component has these options."""
    missing = [name for name in names if name not in owner.model_fields]  # type: ignore[attr-defined]
    assert not missing, f"{owner.__name__} has no option {missing}: a drawing says so"


@cache
def quickstart() -> Experiment:
    return Experiment.load(ROOT / "experiments" / "quickstart.toml")


@cache
def quickstart_model() -> nn.Module:
    """The model of the quickstart, without memory for its weights."""
    experiment = quickstart()
    with torch.device("meta"):
        return experiment.model.build(experiment.model_context(VOCABULARY))


def attributes_of(path: str, owner: str) -> list[tuple[str, str]]:
    """The attributes that `__init__` of a class sets, with the function that makes each, in their order."""
    found = []
    for node in ast.walk(definition(path, f"{owner}.__init__")):
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Call):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            for part in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(part, ast.Attribute) and ast.unparse(part.value) == "self":
                    found.append((part.attr, ast.unparse(node.value.func).removeprefix("self.")))
    return found


def parameters_text(module: nn.Module) -> str:
    """The shapes of the parameters that a module itself has: "256 x 128"."""
    shapes = [" x ".join(map(str, parameter.shape)) for parameter in module.parameters(recurse=False)]
    return ", ".join(shapes)


def class_name(module: nn.Module) -> str:
    return type(module).__name__
