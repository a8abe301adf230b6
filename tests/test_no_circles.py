"""No module imports itself by way of others, imports for type checkers and inside functions included."""

from __future__ import annotations

import ast
from pathlib import Path

import nanogpt_kit

ROOT = Path(nanogpt_kit.__file__).parent

# Imports in both directions, for type checkers or inside functions only.
INHERENT = {
    ("nanogpt_kit.core.kinds.observation", "nanogpt_kit.core.experiment"),  # callbacks see the experiment of their run
    ("nanogpt_kit.core.kinds.network", "nanogpt_kit.nn.parts"),  # the type of what layers return
    ("nanogpt_kit.core.registry", "nanogpt_kit.core.kinds"),  # checks what it has imported
    ("nanogpt_kit.core.registry", "nanogpt_kit.core.options"),
    ("nanogpt_kit", "nanogpt_kit.train.session"),  # a lazy name of the package
}


def modules() -> dict[str, Path]:
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(module: str, path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of the package that a file imports anywhere."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & known.keys()
            found |= submodules or {node.module}
    return {name for name in found if name in known and name != module and (module, name) not in INHERENT}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one module (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in sorted(graph[module]):
            if other not in index:
                visit(other)
            if other in stack:
                low[module] = min(low[module], low[other])
        if low[module] == index[module]:
            component = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(component) > 1:
                found.append(sorted(component))

    for module in sorted(graph):
        if module not in index:
            visit(module)
    return found


def test_no_module_is_in_a_circle_of_imports() -> None:
    known = modules()
    graph = {module: imports_of(module, path, known) for module, path in known.items()}
    assert circles(graph) == []


def test_a_circle_would_be_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
