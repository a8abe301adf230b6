"""Remedies for text that is not TOML: habits from Python, JSON, YAML and Windows."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from nanogpt_kit.core.errors import Key, shorten

if TYPE_CHECKING:
    import tomli

BARE_LIST = re.compile(r"\[[ \w./,-]+\]")  # whose strings have lost their quotes
MAX_QUOTED = 100  # characters quoted from the file
TOKEN = re.compile(  # strings, also unclosed ones, and comments; the rest is skipped
    r'"""(?:\\.|[^\\])*?(?:"""|\Z)|'
    r"'''.*?(?:'''|\Z)|"
    r'"(?:\\[^\n]|[^"\\\n])*"?|'
    r"'[^'\n]*'?|"
    r"#[^\n]*",
    re.DOTALL,
)
END = r"(?![\w./\\-])"  # of a word
NULL = rf"(?:null|Null|NULL|None|nil|undefined|unset|~){END}"
NULL_IN_LIST = (
    "TOML has no null, and a list cannot leave a value out: write one that means the same, as 0 does for many options"
)
LINE_START, VALUE_NEXT, VALUE_DONE = r"\n\s*\Z", r"[=\[,]\s*\Z", r"\S[ \t]*\Z"
KEY_DONE = r"[\n{,.\[]\s*(?:\"[^\"\n]*\"|'[^'\n]*'|[A-Za-z_][\w.-]*)[ \t]*\Z"
WITHOUT_QUOTES = r"[^,\]}#\n\"']*[^,\]}#\n\"'\s]"
HABITS = [  # text before the error, text from there on, the remedy with {1}, {2} for groups of the latter
    (VALUE_NEXT, NULL, "TOML has no null: leave the key out, and the option is not set"),
    (VALUE_NEXT, rf"(?i:true|yes|on){END}", "write true, in lower case"),
    (VALUE_NEXT, rf"(?i:false|no|off){END}", "write false, in lower case"),
    (VALUE_NEXT, rf"([+-]?)(?i:infinity|inf){END}", "write {1}inf"),
    (VALUE_NEXT, rf"(?i:nan){END}", "write nan"),
    (VALUE_NEXT, r"([+-]?)(\.\d\w*)", "a number has a digit before the point: {1}0{2}"),
    (VALUE_NEXT, r"\(", "write a list in square brackets: [1, 2]"),
    (VALUE_NEXT, r"[\u2018-\u201f\u00ab\u00bb`]", "write a string in straight quotes: \"...\" or '...'"),
    (VALUE_NEXT, r"=", "write a single ="),
    (VALUE_NEXT, r"\s*(?:#|\n|\Z)", "a value is missing; to leave an option unset, leave out its key as well"),
    (VALUE_NEXT, r",", "a value is missing before the comma"),
    (r"\Z", r"[\u00a0\u2000-\u200b\u3000\ufeff]", "this blank character is not a plain space"),
    (VALUE_NEXT, rf"({WITHOUT_QUOTES})", "write a string in quotes: {quote}{1}{quote}"),
    (KEY_DONE, r":\s*\n", "write a table as [name], and its keys below it with ="),
    (KEY_DONE, r":?=|[-+*/]=|:|(?=[\w\"'])", "write key = value"),
    (LINE_START, r"\{", "this is JSON; in TOML write key = value, one a line, and tables as [name]"),
    (LINE_START, r"//|;|%|--", "a comment begins with #"),
    (
        r"\n\s*-[ \t]*\Z",
        "",
        "this is YAML; in TOML write a list as key = [1, 2], and each of several tables as [[name]]",
    ),
    (r"\n---\Z", "", "this is YAML; TOML has no such line"),
    (r"\n\s*\[[^\]\n]*\Z", r"\s*(?:\n|\Z)", "close the brackets around the name of the table, as in [train]"),
    (r"=\s*'[^'\n]*\n?\Z", "", "the string has no closing quote"),
    (r"[=\[,]\s*[+-]?\d+\Z", r"\.(?!\d)", "a number has a digit after the point, as in 1.0"),
    (r"\d[eE][+-]?\d+\Z", r"\.", "an exponent is a whole number, as in 1e-4"),
    (r"[=\[,]\s*[+-]?0\Z", r"\d", "a number does not begin with 0"),
    (r"\d\Z", r",\d\d\d", "separate thousands by _, as in 1_000"),
    (VALUE_DONE, r"[,;]\s*(?:#|\n|\Z)", "only a comment may follow a value on its line"),
    (VALUE_DONE, r"//", "a comment begins with #"),
    (VALUE_DONE, r"\r(?!\n)", "a carriage return is allowed only before a line feed"),
    (r"\d[ \t]*\Z", r"[*/%+\w-]", "write a number in digits, as in 3e-4 or 1_000, and a string in quotes"),
    (r"'\Z", r"\w", "write a string that contains ' in double quotes"),
    (r"\"\Z", r"\w", 'write a string that contains " in single quotes'),
    (VALUE_DONE, r"[\"'\w\[{]", "write each key = value on a separate line, and a list as [1, 2]"),
]


def explain_syntax_error(error: tomli.TOMLDecodeError, key: Key, before: int) -> tuple[str, int, Key]:
    """(the fault and its remedy, the line, the key).

    `key` is the last one before the error, `before` the line where the same key was written earlier, or 0.
    """
    in_list = bool(key) and isinstance(key[-1], int)
    while key and isinstance(key[-1], int):
        key = key[:-1]
    remedy = string_remedy(error.doc, error.pos) or habit_remedy(error.doc, error.pos, in_list)
    if not remedy and before:
        remedy = f"the key is already on line {before}"
    return f"{error.msg}{remedy and f': {remedy}'}", error.lineno, key


def string_remedy(text: str, at: int) -> str:
    """The remedy for an error inside a string in double quotes; empty elsewhere."""
    token = next((match for match in TOKEN.finditer(text) if match.end() >= at), None)
    if token is None or token.start() >= at or token[0][0] != '"':
        return ""
    written = token[0]
    if "\\" in written:
        inside = shorten(written.strip('"').strip(), MAX_QUOTED)
        literal = f"'{inside}' in single quotes" if not re.search(r"['\n]", inside) else "\\\\ for each"
        slashes = inside.replace("\\", "/")
        other = f', or "{slashes}"' if re.search(r"\b[A-Za-z]:\\", inside) else ""  # a path of Windows, not a pattern
        return f"a backslash in double quotes begins an escape such as \\n; write {literal}{other}"
    return "" if written[-1] == '"' != written else "the string has no closing quote"


def habit_remedy(text: str, at: int, in_list: bool) -> str:
    """The remedy for a habit from another language; empty where none is known."""
    before, after = "\n" + text[max(0, at - MAX_QUOTED) : at], text[at : at + MAX_QUOTED]
    for preceding, following, remedy in HABITS:
        match = re.match(following, after)
        if match and re.search(preceding, before):
            if following == NULL and in_list:
                return NULL_IN_LIST
            return remedy.format(*[match[0], *match.groups()], quote="'" if "\\" in match[0] else '"')
    return ""


def shell_remedy(key: str, value: str) -> str:
    """For a list whose quotes a shell has removed: the override in quotes for the shell; else empty."""
    if not BARE_LIST.fullmatch(value):
        return ""
    words = ", ".join(f'"{word.strip()}"' for word in value[1:-1].split(","))
    return f"; a shell removes quotes, so write {shlex.quote(f'{key}=[{words}]')}"


def escape_remedy(path: str) -> str:
    """For a path that does not exist: the remedy where "C:\\temp" in double quotes has become a tab; else empty."""
    if not re.search(r"[\x07-\x0d\x1b]", path):
        return ""
    return (
        "; it contains control characters: a backslash in double quotes begins an escape, so write it in single quotes"
    )
