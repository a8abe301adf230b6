"""Every sentence that the package can print is in a golden file, where it is reviewed as prose.

A sentence is a string in a place that is always shown (SHOWN_CALLS, SHOWN_KEYWORDS, docstrings of commands, kinds and
component modules), or any other string with two words in a row, except docstrings and the messages of assertions.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import nanogpt_kit

FOLDER = Path(__file__).parent
PACKAGE = Path(nanogpt_kit.__file__).parent
SHOWN_CALLS = {  # each positional string is shown; Fault and option_error take keys, too
    *("KitError", "RunFailed", "Busy", "NotFinite", "OutOfMemory", "LostRank", "ValueError", "BadParameter"),
    *("echo", "print_lines", "confirm", "request_stop", "debug", "info", "warning", "error", "VerbHelp"),
}
SHOWN_KEYWORDS = {"help", "description"}
SHOWN_RETURNS = {"refusal_reason", "explain_choices", "split_refusal_reason"}  # methods whose strings are shown
PROSE = re.compile(r"[^\W\d_]{3,}[,;:]? [\w{(]|[\w})][,;:]? [^\W\d_]{3,}")  # a word before or after another
PLACEHOLDER = re.compile(r"\{[^{}]*\}")
MARKUP = re.compile(r"<[^<>]*>?")


@dataclass
class Collector(ast.NodeVisitor):
    """The sentences of one module, in their order in the file."""

    is_component: bool  # of components/, whose module docstrings `plugins show` prints
    has_shown_assertions: bool  # of testing/, whose readers are the authors of plugins
    sentences: list[str] = field(default_factory=list)
    is_shown: bool = False  # inside a place that is always shown

    def add(self, text: str, is_shown: bool = False) -> None:
        if re.search(r"[^\W\d_]", PLACEHOLDER.sub("", text)) and (is_shown or self.is_shown or is_prose(text)):
            self.sentences.append(text.strip())

    def visit_shown(self, node: ast.AST | None, is_shown: bool = True) -> None:
        if node is not None:
            before, self.is_shown = self.is_shown, is_shown
            self.visit(node)
            self.is_shown = before

    def visit_body(self, statements: list[ast.stmt], docstring: str | None) -> None:
        has_docstring = (
            bool(statements)
            and isinstance(statements[0], ast.Expr)
            and isinstance(statements[0].value, ast.Constant)
            and isinstance(statements[0].value.value, str)
        )
        if docstring:
            self.add(docstring, is_shown=True)
        for statement in statements[has_docstring:]:
            self.visit(statement)

    def visit_Module(self, node: ast.Module) -> None:
        self.visit_body(node.body, ast.get_docstring(node) if self.is_component else None)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        is_kind = any(ast.unparse(part).startswith("kind: ClassVar[str] = ") for part in node.body)
        self.visit_body(node.body, (ast.get_docstring(node) or "").partition("\n")[0] if is_kind else None)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        is_command = any(re.search(r"\.(command|group)\(", ast.unparse(part)) for part in node.decorator_list)
        for decorator in node.decorator_list:
            self.visit(decorator)
        for default in (*node.args.defaults, *node.args.kw_defaults):
            self.visit_shown(default, is_shown=False)
        before, self.is_shown = self.is_shown, node.name in SHOWN_RETURNS
        self.visit_body(node.body, ast.get_docstring(node) if is_command else None)
        self.is_shown = before

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:  # an annotation may be a string
            self.visit(node.value)

    def visit_Assert(self, node: ast.Assert) -> None:
        if self.has_shown_assertions and node.msg is not None:
            self.visit_shown(node.msg)

    def visit_Call(self, node: ast.Call) -> None:
        is_shown = name_of(node.func) in SHOWN_CALLS
        self.visit(node.func)
        for argument in node.args:
            self.visit_shown(argument, is_shown)
        for keyword in node.keywords:
            self.visit_shown(keyword.value, keyword.arg in SHOWN_KEYWORDS)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self.visit_shown(node.slice, is_shown=False)
        self.visit(node.value)

    def visit_Compare(self, node: ast.Compare) -> None:
        for part in (node.left, *node.comparators):
            self.visit_shown(part, is_shown=False)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self.add(node.value)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        self.add(template(node))

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if isinstance(node.op, ast.Add) and any(is_string(part) for part in (node.left, node.right)):
            self.add(template(node))
        else:
            self.generic_visit(node)


def is_prose(text: str) -> bool:
    return PROSE.search(re.sub(r"\{[^{}|]*\}", "{}", MARKUP.sub("", text))) is not None


def is_string(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp):
        return is_string(node.left) or is_string(node.right)
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def name_of(node: ast.AST) -> str:
    """The last part of a dotted name."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def template(node: ast.AST) -> str:
    """A string expression as it reads: "{path} is missing", "{count} run{s|}"."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(map(template, parts))
        case ast.FormattedValue(value=value):
            return template(value) if is_string(value) else f"{{{placeholder(value)}}}"
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return "".join(template(part) if is_string(part) else f"{{{placeholder(part)}}}" for part in (left, right))
        case _:
            return placeholder(node)


def placeholder(node: ast.AST) -> str:
    """What stands for a value: its name, both values of a choice, the argument of the function that makes it."""
    match node:
        case ast.Constant() | ast.JoinedStr():
            return template(node) if is_string(node) else repr(getattr(node, "value", None))
        case ast.IfExp(body=body, orelse=orelse):
            return f"{placeholder(body)}|{placeholder(orelse)}"
        case ast.BoolOp(op=operation, values=values):
            return {ast.And: " and ", ast.Or: " or "}[type(operation)].join(map(placeholder, values))
        case ast.Name() | ast.Attribute():
            return name_of(node)
        case ast.Call(func=ast.Attribute(attr="join"), args=[items]) | ast.Subscript(value=items):
            return placeholder(items)
        case ast.Call(func=ast.Name(id="map"), args=[_, last]) | ast.Call(args=[ast.Name() | ast.Attribute() as last]):
            return placeholder(last)
        case ast.Call(func=function):
            return name_of(function)
        case ast.GeneratorExp(elt=each) | ast.ListComp(elt=each):
            return placeholder(each)
        case _:
            return ast.unparse(node)


def module_sentences(path: Path) -> list[str]:
    parts = path.relative_to(PACKAGE).parts
    collector = Collector(
        is_component=parts[0] == "components" and path.stem != "__init__", has_shown_assertions=parts[0] == "testing"
    )
    collector.visit(ast.parse(path.read_text(encoding="utf-8")))
    return collector.sentences


def room_text(paths: Iterable[Path]) -> str:
    """A paragraph for each module: its name, and below it each sentence after a dash."""
    paragraphs = []
    for path in sorted(paths):
        sentences = module_sentences(path)
        if sentences:
            name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
            lines = ["- " + sentence.replace("\n", "\n  ") for sentence in sentences]
            paragraphs.append("\n".join([name, *lines]))
    return re.sub(r"[ \t]+$", "", "\n\n".join(paragraphs), flags=re.MULTILINE) + "\n"


# The modules of each folder of the package; those beside the folders are "package"
ROOMS = {"package": [*PACKAGE.glob("*.py")]} | {
    folder.name: [*folder.rglob("*.py")] for folder in sorted(PACKAGE.iterdir()) if (folder / "__init__.py").exists()
}


@pytest.mark.parametrize("room", ROOMS)
def test_sentences_are_the_reviewed_ones(room: str, golden: Callable[[Path, str], None]) -> None:
    golden(FOLDER / f"{room}.txt", room_text(ROOMS[room]))


def test_each_golden_file_belongs_to_a_room() -> None:
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(ROOMS)
