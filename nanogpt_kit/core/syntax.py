"""What was probably meant where a file is not TOML: habits of Python, JSON, YAML and Windows, each with its remedy."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from nanogpt_kit.core.errors import Key, shorten

if TYPE_CHECKING:
    import tomli

LONGEST = 100  # characters of what is quoted from the file
TOKEN = re.compile(  # strings, open ones too, and comments; whatever else is passed over
    r'"""(?:\\.|[^\\])*?(?:"""|\Z)|'
    r"'''.*?(?:'''|\Z)|"
    r'"(?:\\[^\n]|[^"\\\n])*"?|'
    r"'[^'\n]*'?|"
    r"#[^\n]*",
    re.DOTALL,
)
END = r"(?![\w./\\-])"  # of a word
NULL = rf"(?:null|Null|NULL|None|nil|undefined|unset|~){END}"
IN_A_CHOICE = (
    "TOML has no null, and a choice lists values: name a value that means the same, as 0 does for many options, "
    "or compare with a separate experiment that leaves the key out"
)
LINE_START, VALUE_NEXT, VALUE_DONE = r"\n\s*\Z", r"[=\[,]\s*\Z", r"\S[ \t]*\Z"
KEY_DONE = r"[\n{,.\[]\s*(?:\"[^\"\n]*\"|'[^'\n]*'|[A-Za-z_][\w.-]*)[ \t]*\Z"
WITHOUT_QUOTES = r"[^,\]}#\n\"']*[^,\]}#\n\"'\s]"
SLIPS = [  # what stands before the place, what follows, the remedy with {1}, {2} for groups of what follows
    (VALUE_NEXT, NULL, "TOML has no null: leave the key out, and the option is not set"),
    (VALUE_NEXT, rf"(?i:true|yes|on){END}", "write true, in lower case"),
    (VALUE_NEXT, rf"(?i:false|no|off){END}", "write false, in lower case"),
    (VALUE_NEXT, rf"([+-]?)(?i:infinity|inf){END}", "write {1}inf"),
    (VALUE_NEXT, rf"(?i:nan){END}", "write nan"),
    (VALUE_NEXT, r"([+-]?)(\.\d\w*)", "a number has a digit before the point: {1}0{2}"),
    (VALUE_NEXT, r"\(", "a list stands in square brackets: [1, 2]"),
    (VALUE_NEXT, r"[\u2018-\u201f\u00ab\u00bb`]", "a text stands in straight quotes: \"...\" or '...'"),
    (VALUE_NEXT, r"=", "one = is enough"),
    (VALUE_NEXT, r"\s*(?:#|\n|\Z)", "a value is missing; to leave an option unset, leave out its key, too"),
    (VALUE_NEXT, r",", "a value is missing before the comma"),
    (r"\Z", r"[\u00a0\u2000-\u200b\u3000\ufeff]", "there is a blank that is not a plain space"),
    (VALUE_NEXT, rf"({WITHOUT_QUOTES})", "a text stands in quotes: {quote}{1}{quote}"),
    (KEY_DONE, r":\s*\n", "a table is written [name], and its keys below it with ="),
    (KEY_DONE, r":?=|[-+*/]=|:|(?=[\w\"'])", "write key = value, with = between them"),
    (LINE_START, r"\{", "this is JSON; TOML writes key = value, each on its line, and tables as [name]"),
    (LINE_START, r"//|;|%|--", "a comment begins with #"),
    (r"\n\s*-[ \t]*\Z", "", "this is YAML; TOML writes a list as key = [1, 2], and several tables as [[name]] each"),
    (r"\n---\Z", "", "this is YAML; TOML has no such line"),
    (r"\n\s*\[[^\]\n]*\Z", r"\s*(?:\n|\Z)", "a table's name stands in brackets, as in [train]"),
    (r"=\s*'[^'\n]*\n?\Z", "", "the text has no closing quote"),
    (r"[=\[,]\s*[+-]?\d+\Z", r"\.(?!\d)", "a number has a digit after the point, as in 1.0"),
    (r"[=\[,]\s*[+-]?0\Z", r"\d", "a number does not begin with 0"),
    (r"\d\Z", r",\d\d\d", "thousands are separated by _, as in 1_000"),
    (VALUE_DONE, r"[,;]\s*(?:#|\n|\Z)", "nothing but a comment follows a value on its line"),
    (VALUE_DONE, r"//", "a comment begins with #"),
    (VALUE_DONE, r"\r(?!\n)", "a line ends with a line feed, perhaps after a carriage return"),
    (r"\d[ \t]*\Z", r"[*/%+\w-]", "a number consists of digits, as in 3e-4 or 1_000; a text stands in quotes"),
    (r"'\Z", r"\w", "a text with ' in it stands in double quotes"),
    (r"\"\Z", r"\w", 'a text with " in it stands in single quotes'),
    (VALUE_DONE, r"[\"'\w\[{]", "each key = value stands on a separate line; a list is written [1, 2]"),
]


def explained(error: tomli.TOMLDecodeError, key: Key, before: int) -> tuple[str, int, Key]:
    """(What is wrong and what to write instead, on which line, at which key).

    `key` is the newest one up to the place of the error, `before` the line where it was written once before, or 0.
    """
    while key and isinstance(key[-1], int):
        key = key[:-1]
    remedy = in_a_string(error.doc, error.pos) or slip(error.doc, error.pos, key)
    if not remedy and before:
        remedy = f"it was written before, on line {before}"
    return f"{error.msg}{remedy and f': {remedy}'}", error.lineno, key


def in_a_string(text: str, at: int) -> str:
    """The remedy where the place lies in a text in double quotes; else empty."""
    token = next((found for found in TOKEN.finditer(text) if found.end() >= at), None)
    if token is None or token.start() >= at or token[0][0] != '"':
        return ""
    written = token[0]
    if "\\" in written:
        inside = shorten(written.strip('"').strip(), LONGEST)
        literal = f"'{inside}' in single quotes" if not re.search(r"['\n]", inside) else "\\\\ for each"
        slashes = inside.replace("\\", "/")
        return f'a backslash in double quotes begins an escape such as \\n; write {literal}, or "{slashes}"'
    return "" if written[-1] == '"' != written else "the text has no closing quote"


def slip(text: str, at: int, key: Key) -> str:
    """The remedy of a habit from another language; empty where none is known."""
    before, after = "\n" + text[max(0, at - LONGEST) : at], text[at : at + LONGEST]
    for preceding, following, remedy in SLIPS:
        found = re.match(following, after)
        if found and re.search(preceding, before):
            if following == NULL and key[:2] == ("sweep", "space"):
                return IN_A_CHOICE
            return remedy.format(*[found[0], *found.groups()], quote="'" if "\\" in found[0] else '"')
    return ""


def escapes_in(path: str) -> str:
    """For a path that is not there: the remedy where "C:\\temp" in double quotes has become a tab; else empty."""
    if not re.search(r"[\x07-\x0d\x1b]", path):
        return ""
    return "; it has control characters: a backslash in double quotes begins an escape, so write it in single quotes"
