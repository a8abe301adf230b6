"""Explains what is wrong with a line that should be a JSON object, and how to correct it."""

from __future__ import annotations

import ast
import json
import re
import warnings

MAX_LITERAL_CHARACTERS = 100_000  # of a line given to Python's own parser, which needs a hundred times the memory

ONE_PER_LINE = "JSON Lines has one object per line, and nothing between the lines"
ARRAY_FAULT = (
    "a JSON array, where one object per line is expected; jq -c '.[]' OLD > NEW writes these, or name the file .json "
    'and set dataset.use = "huggingface"'
)


def explain_json_fault(line: str, first: bool) -> str:
    """A sentence with a remedy about a line that json cannot read; `first`: it is the first line of the file."""
    decoder = json.JSONDecoder()
    try:
        value, end = decoder.raw_decode(line)
    except RecursionError:
        return "not JSON: it is too deeply nested"
    except json.JSONDecodeError as error:
        return f"not JSON: {explain_decode_error(line, error, first)}"
    except ValueError as error:  # a number of thousands of digits
        return f"not JSON: {error}"
    rest = line[end:].strip()
    column = end + len(line[end:]) - len(line[end:].lstrip()) + 1
    if rest == ",":
        return f"not JSON: a comma after the object, in column {column}; remove it: {ONE_PER_LINE}"
    if isinstance(value, dict) and rest.lstrip(" ,").startswith("{"):
        return f"not JSON: another object begins in column {column}; put it on a separate line: {ONE_PER_LINE}"
    return f"not JSON: text after the end, in column {column}: {rest[:20]!r}; remove it: {ONE_PER_LINE}"


def explain_decode_error(line: str, error: json.JSONDecodeError, first: bool) -> str:
    """Explains where json stopped, without the words "not JSON"."""
    at, column = error.pos, error.pos + 1
    if line.startswith("\ufeff"):
        return "a byte order mark, which only the first line may have; perhaps files were joined; remove it"
    if line.startswith(("//", "#", "/*")):
        return "a comment, which JSON does not have; remove it"
    if line == "[" or (first and line.startswith("[")):
        return ARRAY_FAULT
    if re.compile(r'"(?:[^"\\]|\\.)*\\?').fullmatch(line, at):
        return (
            f"a string that starts in column {column} and does not end on this line; a line break in it is written "
            "\\n, and otherwise the line is cut short"
        )
    if line in ("]", "],", "}", "},", "{") or (line.startswith("{") and at >= len(line)):
        return (
            f"an object that does not start and end on this line (column {column}); where it spans several lines, "
            "jq -c . OLD > NEW puts each on one, and otherwise the line is cut short"
        )
    around = re.compile(r",\s*[}\]]").search(line, max(0, len(line[:at].rstrip(" \t\r\n,")) - 1))
    if around and around.start() <= at <= around.end():
        return f"a comma before the closing bracket, in column {around.start() + 1}; remove it"
    letter = line[at : at + 1]
    if letter and letter < " ":
        return f"the control character U+{ord(letter):04X} in a string, in column {column}; write it as an escape"
    if letter == "\\" or line[max(0, at - 2) : at].endswith(("\\u", "\\")):
        return f"an escape that JSON does not have, in column {column}; a backslash is written as \\\\"
    if is_python_literal(line):
        return "a Python literal (single quotes, True or None); write JSON with json.dumps"
    if letter.isidentifier() and line[:at].rstrip().endswith(("{", ",")):
        return f"a key without double quotes in column {column}"
    if letter == "'":
        return f"a single quote in column {column}; JSON strings are in double quotes"
    if not re.search(r"[{\[\"]", line):
        return f"{line[:20]!r} is plain text; name the file .txt, or write one object per line"
    return f"{error.msg} in column {column}"


def is_python_literal(line: str) -> bool:
    if len(line) > MAX_LITERAL_CHARACTERS or not line.startswith("{"):
        return bool(re.match(r"\{\s*'", line))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes that Python does not know
            return isinstance(ast.literal_eval(line), dict)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
