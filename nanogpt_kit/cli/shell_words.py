"""The words of a command line that is being typed, and words quoted for it."""

from __future__ import annotations

import re
import shlex
from contextlib import suppress

CURSOR = "|"  # any character that is not special to shlex
QUOTES = ("", "'", '"')
SPECIAL = re.compile(r"[^\w@%+=:,./-]")  # what is escaped outside quotes


def split_command(line: str) -> tuple[list[str], str]:
    """The words of a command up to the cursor, without their quotes, and the quote that is open there, if any.

    The last word is the one that is being typed; it may be empty.
    """
    for quote in QUOTES:
        with suppress(ValueError):  # another quote is open
            *words, last = shlex.split(line + CURSOR + quote)
            return [*words, last.removesuffix(CURSOR)], quote
    raise AssertionError("one of the quotes is open")


def is_one_line(word: str) -> bool:
    """Whether a word has no control characters, which shells and terminals would interpret, and is valid UTF-8."""
    return word.isprintable()


def escape_for_bash(text: str, quote: str) -> str | None:
    """`text` as the continuation of a word within `quote`; None where it cannot be written there."""
    if not quote:
        return SPECIAL.sub(lambda match: f"\\{match[0]}", text)
    special = "'" if quote == "'" else '"$`\\!'
    return None if any(character in text for character in special) else text
