"""A config file of nanoGPT, such as config/train_gpt2.py, read by parsing it: no part of it is executed.

train.py executes such a file, which replaces its global variables. Here it may contain assignments, comments and
`import time`; all else is refused, with the line. See `nanogpt_expression` for the values.
"""

from __future__ import annotations

import ast
import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.interop.nanogpt_expression import CLOCK, FAULTY, Clock, Faulty, Refused, Result, evaluate
from nanogpt_kit.interop.nanogpt_options import DEFAULTS, MACHINE_DEPENDENT, Value, name_fault, type_fault
from nanogpt_kit.system.reading import read_bytes

MAX_BYTES = 65_536  # nanoGPT's longest has 1,100; the parser takes a fifth of a second for any file of this size
RUN_NAMES = ("out_dir", "wandb_project", "wandb_run_name")  # options that may depend on the time

STATEMENTS: dict[type[ast.stmt], str] = {
    **dict.fromkeys((ast.Import, ast.ImportFrom), "an import"),
    **dict.fromkeys((ast.For, ast.AsyncFor, ast.While), "a loop"),
    **dict.fromkeys((ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef), "a definition"),
    **dict.fromkeys((ast.If, ast.Match), "a condition"),
    ast.AugAssign: "a change of a variable",
    ast.AnnAssign: "an annotation",
    ast.Expr: "an expression",
}


@dataclass
class NanoGPTConfig:
    """What a file sets, over the defaults of train.py."""

    path: Path
    values: dict[str, Result] = field(default_factory=lambda: dict[str, Result](DEFAULTS))
    lines: dict[str, int] = field(default_factory=dict)  # of the options that the file sets

    def __getitem__(self, option: str) -> Value:
        value = self.values[option]
        assert not isinstance(value, Clock | Faulty), f"{option} has no value"
        return value

    def number(self, option: str) -> int | float:
        value = self[option]
        assert isinstance(value, int | float), f"{option} = {value!r}"
        return value

    def whole(self, option: str) -> int:
        return int(self.number(option))

    def location(self, *options: str) -> str:
        """Where the first of these options is set that the file sets: "file:line"; the file where it sets none."""
        line = next((self.lines[option] for option in options if option in self.lines), None)
        return str(self.path) if line is None else f"{self.path}:{line}"


def read_nanogpt_config(path: Path) -> NanoGPTConfig:
    """Raises KitError with all faults of the file."""
    config, imported, faults = NanoGPTConfig(path), False, list[Fault]()
    for statement in parse_config(path).body:
        if is_import_of_time(statement):
            imported = True
            continue
        try:
            assign_options(statement, config, imported)
        except Refused as refused:
            if refused.reason is not None:
                faults.append(Fault(refused.reason, location=f"{path}:{refused.line}"))
    if faults:
        raise KitError(*faults)
    return config


def assign_options(statement: ast.stmt, config: NanoGPTConfig, imported: bool) -> None:
    """Sets the options that a statement assigns. Raises Refused."""
    names, before = assigned_names(statement), dict(config.values)
    if not isinstance(statement, ast.Assign):
        return
    for name in MACHINE_DEPENDENT:
        if name not in config.lines:
            del before[name]
    config.values |= dict.fromkeys(names, FAULTY)  # until its value is known
    for name in names:
        reason = name_fault(name)
        if reason is not None:
            raise Refused(statement, reason)
    value = evaluate(statement.value, before, imported)
    for name in names:
        config.values[name], config.lines[name] = checked_value(name, value, statement), statement.lineno


def parse_config(path: Path) -> ast.Module:
    """The syntax tree. Raises KitError for what is not a small regular file of Python in UTF-8."""
    try:
        content = read_bytes(path, MAX_BYTES)
    except (OSError, ValueError) as error:
        reason = "it is a folder" if os.path.isdir(path) else getattr(error, "strerror", None) or str(error)
        raise KitError(f"{path}: cannot be read as a config file of nanoGPT: {reason}") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise KitError(Fault("a config file of nanoGPT should be text in UTF-8", location=f"{path}:{line}")) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about its escape sequences
            return ast.parse(text)
    except SyntaxError as error:
        location = f"{path}:{error.lineno}" if error.lineno else str(path)
        raise KitError(Fault(f"this is not Python: {error.msg}", location=location)) from None
    except (RecursionError, MemoryError):  # the latter is what the parser raises for a chain such as - - - - 1
        raise KitError(f"{path}: an expression is nested too deeply") from None
    except ValueError as error:  # NUL, in some versions of Python
        raise KitError(f"{path}: this is not Python: {error}") from None


def is_import_of_time(statement: ast.stmt) -> bool:
    match statement:
        case ast.Import(names=[ast.alias(name="time", asname=None)]):
            return True
    return False


def assigned_names(statement: ast.stmt) -> list[str]:
    """The names that a statement sets; none where it is text. Raises Refused for any other statement."""
    match statement:
        case ast.Expr(value=ast.Constant(value=str())) | ast.Pass():
            return []
        case ast.Assign(targets=targets):
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            if len(names) == len(targets):
                return names
            raise Refused(statement, "only options are set, by their names, as in batch_size = 12")
    what = STATEMENTS.get(type(statement), "this statement")
    raise Refused(statement, f"{what} is not executed; expected option = value, as in batch_size = 12")


def checked_value(name: str, value: Value | Clock, statement: ast.stmt) -> Value | Clock:
    """The value. Raises Refused where the option cannot have it."""
    if value is CLOCK and name in RUN_NAMES:
        return value
    reason = f"{name} should not depend on the time" if isinstance(value, Clock) else type_fault(name, value)
    if reason is not None:
        raise Refused(statement, reason)
    return value
