"""Overrides: "key=value" texts from a command line."""

from __future__ import annotations

import reprlib
from typing import Any

from nanogpt_kit.core.errors import Fault, KitError, dotted
from nanogpt_kit.core.syntax import shell_remedy
from nanogpt_kit.core.toml_lines import MalformedToml, parse_toml

COMMAND_LINE = "command line"  # the location of an override


def parse_override(text: str) -> tuple[tuple[str, ...], Any]:
    """("optimizer", "lr"), 3e-4 from "optimizer.lr=3e-4". A right-hand side that is not TOML is a plain string."""
    left, equals, right = text.partition("=")
    key = parse_key(left) if equals and "\n" not in left else ()
    if not key:
        expected = "expected key=value, as in optimizer.lr=3e-4"
        raise KitError(Fault(f"{expected}, got {abbreviate(text)}", location=COMMAND_LINE))
    if "\n" in right:
        return key, right
    try:
        values, _ = parse_toml(f"value = {right}")
    except MalformedToml as error:
        if right[:1] in tuple("[{\"'"):
            message = f"not a TOML value: {error.message}, in {abbreviate(right)}{shell_remedy(left, right)}"
            raise KitError(Fault(message, dotted(key), COMMAND_LINE)) from None
        return key, right
    return key, values["value"]


def abbreviate(text: str) -> str:
    """`repr` without the middle of a long text; of a URL only the scheme, since any other part may show a password."""
    before, mark, _ = text.partition("://")
    return repr(f"{before[-20:]}{mark}...") if mark else reprlib.repr(text)


def parse_key(text: str) -> tuple[str, ...]:
    """The parts of a dotted key; empty where `text` is not one."""
    try:
        node, _ = parse_toml(f"{text} = 0")
    except MalformedToml:
        return ()
    key: tuple[str, ...] = ()
    while isinstance(node, dict) and len(node) == 1:
        part, node = next(iter(node.items()))
        key = (*key, part)
    return () if isinstance(node, dict) else key
