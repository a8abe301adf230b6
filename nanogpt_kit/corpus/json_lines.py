"""What is wrong with a line that should be a JSON object, and what to do about it."""

from __future__ import annotations

import ast
import json
import re
import warnings

MOST_CHARACTERS = 100_000  # of a line that Python's own parser is asked about: it needs a hundred times the room

ONE_A_LINE = "JSON Lines has one object a line, and nothing between the lines"
ARRAY = (
    "a JSON array, where an object a line is expected; jq -c '.[]' OLD > NEW writes these, or name the file .json "
    'and set dataset.use = "huggingface"'
)


def fault_in(line: str, first: bool) -> str:
    """A sentence about a line that json cannot read, with a remedy; `first`: whether it begins the file."""
    decoder = json.JSONDecoder()
    try:
        found, end = decoder.raw_decode(line)
    except RecursionError:
        return "not JSON: it is too deeply nested"
    except json.JSONDecodeError as error:
        return f"not JSON: {unreadable(line, error, first)}"
    except ValueError as error:  # a number of thousands of digits
        return f"not JSON: {error}"
    rest = line[end:].strip()
    column = end + len(line[end:]) - len(line[end:].lstrip()) + 1
    if rest == ",":
        return f"not JSON: a comma behind the object, in column {column}; remove it: {ONE_A_LINE}"
    if isinstance(found, dict) and rest.lstrip(" ,").startswith("{"):
        return f"not JSON: another object begins in column {column}; put it on a separate line: {ONE_A_LINE}"
    return f"not JSON: text behind its end, in column {column}: {rest[:20]!r}; remove it: {ONE_A_LINE}"


def unreadable(line: str, error: json.JSONDecodeError, first: bool) -> str:
    """`error`: where json stopped."""
    at, column = error.pos, error.pos + 1
    if line.startswith("\ufeff"):
        return "a byte order mark, which only the first line may have; were files joined? Remove it"
    if line.startswith(("//", "#", "/*")):
        return "a comment, which JSON does not have; remove it"
    if line == "[" or (first and line.startswith("[")):
        return ARRAY
    if re.compile(r'"(?:[^"\\]|\\.)*\\?').fullmatch(line, at):
        return (
            f"a string, begun in column {column}, that does not end on this line; a line break in it is written \\n, "
            "and otherwise the line is cut short"
        )
    if line in ("]", "],", "}", "},", "{") or (line.startswith("{") and at >= len(line)):
        return (
            f"an object that does not begin and end on this line (column {column}); where it spans several lines, "
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
    if is_python(line):
        return "a Python literal (single quotes, True or None); write it with json.dumps"
    if letter.isidentifier() and line[:at].rstrip().endswith(("{", ",")):
        return f"a key without double quotes in column {column}"
    if letter == "'":
        return f"a single quote in column {column}; JSON's strings stand in double quotes"
    if not re.search(r"[{\[\"]", line):
        return f"{line[:20]!r} is plain text; name the file .txt, or write an object a line"
    return f"{error.msg} in column {column}"


def is_python(line: str) -> bool:
    if len(line) > MOST_CHARACTERS or not line.startswith("{"):
        return bool(re.match(r"\{\s*'", line))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python does not know
            return isinstance(ast.literal_eval(line), dict)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
