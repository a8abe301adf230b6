"""`--vary KEY=VALUE,VALUE`: values as in overrides, separated by commas outside brackets and quotes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from nanogpt_kit.core.errors import Fault, KitError, dotted
from nanogpt_kit.core.overrides import COMMAND_LINE, abbreviate, parse_key, parse_override

OPENING, CLOSING, QUOTES = "[{", "]}", "\"'"
EXAMPLE = "model.mlp=gelu,swiglu"


def parse_vary(texts: Sequence[str]) -> dict[str, list[Any]]:
    """The values by dotted key; texts of the same key add up. Raises KitError with every fault."""
    values: dict[str, list[Any]] = {}
    faults: list[Fault] = []
    for text in texts:
        try:
            key, found = parse_varied_key(text)
        except KitError as error:
            faults += error.faults
            continue
        values.setdefault(key, []).extend(found)
    if faults:
        raise KitError(*faults)
    return values


def parse_varied_key(text: str) -> tuple[str, list[Any]]:
    """ "model.mlp", ["gelu", "swiglu"] from "model.mlp=gelu,swiglu". Raises KitError."""
    left, equals, right = text.partition("=")
    key = parse_key(left) if "\n" not in left else ()
    if not equals or not key:
        expected = f"--vary should be KEY=VALUE,VALUE, as in --vary {EXAMPLE}"
        raise KitError(Fault(f"{expected}, got {abbreviate(text)}", location=COMMAND_LINE))
    texts = list(split_at_commas(right))
    if not all(texts):
        message = f"--vary has an empty value in {abbreviate(right)}; write --vary {dotted(key)}=VALUE,VALUE"
        raise KitError(Fault(message, dotted(key), COMMAND_LINE))
    return left.strip(), [parse_override(f"{left}={one}")[1] for one in texts]


def split_at_commas(text: str) -> Iterator[str]:
    """The parts between the commas that are neither in brackets nor in quotes, without blanks around them.

    A quote begins where a part begins or within brackets: an apostrophe within a word is part of it.
    """
    part, depth, quote = "", 0, ""
    for character in text:
        if quote:
            is_escaped = quote == '"' and (len(part) - len(part.rstrip("\\"))) % 2
            quote = "" if character == quote and not is_escaped else quote
        elif character in QUOTES and (depth or not part.strip()):
            quote = character
        elif character in OPENING:
            depth += 1
        elif character in CLOSING:
            depth -= 1
        elif character == "," and depth <= 0:
            yield part.strip()
            part = ""
            continue
        part += character
    yield part.strip()
