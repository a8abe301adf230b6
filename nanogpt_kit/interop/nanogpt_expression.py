"""The values of expressions in nanoGPT's config files, computed from their syntax trees; nothing is executed.

Literals, arithmetic of numbers, concatenated text, and names that have a value. Each result is bounded, so that no
expression needs much time or memory. `time.time()` is known, for the names that config files give to runs of wandb, and
has no value here: CLOCK stands for all that depends on it.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping

from nanogpt_kit.interop.nanogpt_options import Value, is_number

MAX_DEPTH = 50  # of an expression
MAX_BITS = 63  # of a whole number, so that TOML has it
MAX_TEXT = 1000  # characters

Number = int | float
BINARY: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
UNARY: dict[type[ast.unaryop], Callable[[Number], Number]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}
ALLOWED = "expected numbers and their arithmetic, True, False, text, or an option that the file has set"


class Clock:
    """A value that is not known before the file is executed, since it depends on the time."""


class Faulty:
    """The value of an option whose assignment was refused: nothing more is reported where it is used."""


CLOCK, FAULTY = Clock(), Faulty()
Result = Value | Clock | Faulty


class Refused(Exception):
    """An expression, or a part of it, that is not evaluated; without a reason where that was reported before."""

    def __init__(self, node: ast.AST, reason: str | None) -> None:
        super().__init__(reason)
        self.line, self.reason = getattr(node, "lineno", 1), reason


def evaluate(node: ast.expr, values: Mapping[str, Result], imported: bool, depth: int = 0) -> Value | Clock:
    """The value of an expression; `imported`: the file has imported time. Raises Refused."""
    if depth > MAX_DEPTH:
        raise Refused(node, "the expression is nested too deeply")

    def inner(part: ast.expr) -> Value | Clock:
        return evaluate(part, values, imported, depth + 1)

    match node:
        case ast.Constant(value=bool() | int() | float() | str() as value):
            return bounded(node, value)
        case ast.Name(id=name):
            return value_of_name(node, name, values)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in UNARY:
            (number,) = as_numbers(node, inner(operand))
            return bounded(node, UNARY[type(op)](number))
        case ast.BinOp(op=op, left=left, right=right) if type(op) in BINARY:
            return combine_values(node, op, inner(left), inner(right))
        case ast.JoinedStr(values=parts):
            return join_text(node, [inner(part) for part in parts])
        case ast.FormattedValue(value=part, conversion=-1, format_spec=None):
            return join_text(node, [inner(part)])
        case ast.Call(func=ast.Name(id="str"), args=[part], keywords=[]) if not isinstance(part, ast.Starred):
            return join_text(node, [inner(part)])
        case ast.Call(func=ast.Attribute(value=ast.Name(id="time"), attr="time"), args=[], keywords=[]) if imported:
            return CLOCK
    raise Refused(node, f"{kind_of(node)} is not evaluated; {ALLOWED}")


def value_of_name(node: ast.expr, name: str, values: Mapping[str, Result]) -> Value | Clock:
    if name not in values:
        raise Refused(node, f"{name!r} has no value here; {ALLOWED}")
    value = values[name]
    if isinstance(value, Faulty):
        raise Refused(node, None)
    return value


def combine_values(node: ast.expr, op: ast.operator, left: Value | Clock, right: Value | Clock) -> Value | Clock:
    is_sum = isinstance(op, ast.Add)
    if is_sum and isinstance(left, str | Clock) and isinstance(right, str | Clock):
        return join_text(node, [left, right])
    pair = as_numbers(node, left, right)
    if isinstance(op, ast.Pow):
        check_power(node, *pair)
    try:
        result = BINARY[type(op)](*pair)
    except ZeroDivisionError:
        raise Refused(node, "division by zero") from None
    except OverflowError:
        raise Refused(node, "the number is too large") from None
    return bounded(node, result)


def as_numbers(node: ast.expr, *values: Value | Clock) -> list[Number]:
    if not all(not isinstance(value, Clock) and is_number(value) for value in values):
        raise Refused(node, "arithmetic is evaluated for numbers only, and text is only joined by +")
    return [value for value in values if isinstance(value, int | float)]


def check_power(node: ast.expr, base: Number, exponent: Number) -> None:
    """Refuses powers that are large or complex before they are computed."""
    if abs(exponent) * math.log2(abs(base) + 2) > 2 * MAX_BITS:
        raise Refused(node, "the power is too large or too small")
    if base < 0 and exponent != int(exponent):
        raise Refused(node, "the power is not a real number")


def join_text(node: ast.expr, parts: list[Value | Clock]) -> str | Clock:
    if any(isinstance(part, Clock) for part in parts):
        return CLOCK
    text = "".join(map(str, parts))
    bounded(node, text)
    return text


def bounded(node: ast.expr, value: Value) -> Value:
    """The value. Raises Refused where it is too large, not finite, or cannot be written as UTF-8."""
    if isinstance(value, str):
        if len(value) > MAX_TEXT:
            raise Refused(node, f"the text has {len(value):,} characters; expected at most {MAX_TEXT:,}")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise Refused(node, "the text contains half of a surrogate pair, which UTF-8 cannot contain") from None
    elif isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise Refused(node, f"the whole number is too large; expected at most {MAX_BITS} bits")
    elif isinstance(value, float) and not math.isfinite(value):
        raise Refused(node, "the number is not finite")
    return value


KINDS: dict[type[ast.AST], str] = {
    ast.Call: "a call",
    ast.Attribute: "an attribute",
    ast.Subscript: "an element of a container",
    ast.Constant: "this kind of literal",
    ast.UnaryOp: "this operator",
    ast.BinOp: "this operator",
    ast.BoolOp: "a condition",
    ast.Compare: "a condition",
    ast.IfExp: "a condition",
    ast.Lambda: "a function",
    ast.NamedExpr: "an assignment within an expression",
    ast.FormattedValue: "a format specification",
    **dict.fromkeys((ast.List, ast.Tuple, ast.Dict, ast.Set), "a container"),
    **dict.fromkeys((ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp), "a comprehension"),
}


def kind_of(node: ast.expr) -> str:
    """What an expression is, such as "a call of open"."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return f"a call of {node.func.id}"
    return KINDS.get(type(node), "this expression")
