"""What the source of a component's class says, read and not executed: a stranger's code may do anything."""

from __future__ import annotations

import ast
import contextlib
import inspect
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nanogpt_kit.core.module_finder import find_module
from nanogpt_kit.system.reading import read_bytes

MAX_BYTES = 2_000_000  # of a module; handwritten code has a hundredth of that
MAX_IMPORTS = 3  # modules that are followed from `from .lion import Lion` to the class
SENTENCE_END = re.compile(r"(?<=[^.]\.)\s|\n\s*\n")  # not within an ellipsis


@dataclass(frozen=True)
class ClassSource:
    """A class as its module writes it."""

    file: str
    docstring: str  # of the class, else of its module
    options: frozenset[str]  # the annotated names in its body, and in those of its bases in the same module

    @property
    def summary(self) -> str:
        """The first sentence of the docstring, on one line."""
        return first_sentence(self.docstring)


def first_sentence(docstring: str) -> str:
    return " ".join(SENTENCE_END.split(docstring, maxsplit=1)[0].split())


def read_summary(target: str) -> str:
    """The first sentence about the class of an entry point "module:Class"; empty where its source has none."""
    source = read_class_source(target, only_docstring=True)
    return source.summary if source else ""


def read_class_source(target: str, only_docstring: bool = False) -> ClassSource | None:
    """The class of an entry point "module:Class"; None where its source cannot be found or read.

    `only_docstring` takes a quarter of the time; options that are declared below a method are missing then.
    """
    module, _, name = target.partition(":")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of the compiler about a stranger's source
            return find_class(module, name, only_docstring, MAX_IMPORTS)
    except Exception:  # no such file, no Python, no text, or nested too deeply
        return None


def find_class(module: str, name: str, only_docstring: bool, imports: int) -> ClassSource | None:
    spec = find_module(module)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    tree = parse_module(read_bytes(Path(spec.origin), MAX_BYTES), name if only_docstring else "")
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}  # the commands of verbs
    if definition := classes.get(name) or functions.get(name):
        docstring = ast.get_docstring(definition) or ast.get_docstring(tree) or ""
        return ClassSource(spec.origin, inspect.cleandoc(docstring), frozenset(options_in(name, classes)))
    package = module if spec.submodule_search_locations is not None else module.rpartition(".")[0]
    for node in tree.body if imports else ():
        for alias in node.names if isinstance(node, ast.ImportFrom) else ():
            if name == (alias.asname or alias.name) and isinstance(node, ast.ImportFrom):
                parents = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
                return find_class(
                    ".".join([*parents, *filter(None, [node.module])]), alias.name, only_docstring, imports - 1
                )
    return None


def parse_module(source: bytes, until_methods_of: str) -> ast.Module:
    """The module, without what follows the first method of a class if that is named."""
    match = re.search(rb"^class %s\b.*?(?=^    (?:def |async def |@))" % until_methods_of.encode(), source, re.M | re.S)
    if until_methods_of and match:
        with contextlib.suppress(SyntaxError):  # that line is in a docstring
            return ast.parse(source[: match.end()] + b"    ...\n")
    return ast.parse(source)


def options_in(name: str, classes: dict[str, ast.ClassDef], within: tuple[str, ...] = ()) -> Iterator[str]:
    """The options that a class declares: annotated names that are not private and not class variables."""
    node = classes.get(name)
    if node is None or name in within:
        return
    for base in node.bases:
        if isinstance(base, ast.Name):
            yield from options_in(base.id, classes, (*within, name))
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            option = statement.target.id
            yield from () if option.startswith("_") or "ClassVar" in ast.unparse(statement.annotation) else (option,)
