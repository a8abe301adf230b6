"""Blocks of code that is quoted from the repository, and links to the lines on which names are defined."""

from __future__ import annotations

import ast
import re
import textwrap
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
# A link whose text is a name and whose target is a line: its number follows the code
LINE_LINK = re.compile(r"\[`(?P<name>[\w.]+)(?:\([^`]*\))?`\]\((?P<path>[^)\s#]+\.py)#L(?P<line>\d+)\)")


def code_block(arguments: str) -> str:
    """The source of definitions: `FILE NAME NAME`, each `function`, `Class`, `Class.method` or `CONSTANT`."""
    path, *names = arguments.split()
    sources = [quoted(path, name) for name in names]
    links = ", ".join(f"[`{name}`](/{path}#L{definition(path, name).lineno})" for name in names)
    return f"{links} in `{path}`:\n\n```python\n" + "\n\n\n".join(sources) + "\n```\n"


def quoted(path: str, name: str) -> str:
    node = definition(path, name)
    first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
    return textwrap.dedent("\n".join(lines_of(path)[first - 1 : node.end_lineno]))


def definition(path: str, name: str) -> ast.stmt:
    """The statement that defines a name in a file; a method needs no class where only one class has it."""
    body: list[ast.stmt] = syntax_tree(path).body
    *owners, last = name.split(".")
    for owner in owners:
        classes = [node for node in body if isinstance(node, ast.ClassDef) and node.name == owner]
        assert classes, f"{path} defines no class {owner!r}"
        body = classes[0].body
    for node in body:
        if last in names_of(node):
            return node
    methods = [
        node for owner in body if isinstance(owner, ast.ClassDef) for node in owner.body if last in names_of(node)
    ]
    assert not owners, f"{path} does not define {name!r}"
    assert len(methods) == 1, f"{path} does not define {name!r}, or several classes do"
    return methods[0]


def names_of(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}


@cache
def lines_of(path: str) -> list[str]:
    return (ROOT / path).read_text(encoding="utf-8").splitlines()


@cache
def syntax_tree(path: str) -> ast.Module:
    return ast.parse("\n".join(lines_of(path)))


def with_lines(text: str, page: Path) -> str:
    """The text of a page with the present line in every link to a definition."""

    def link(match: re.Match[str]) -> str:
        path = (page.parent / match["path"]).resolve().relative_to(ROOT).as_posix()
        line = definition(path, match["name"]).lineno
        return match[0].replace(f"#L{match['line']})", f"#L{line})")

    return LINE_LINK.sub(link, text)
