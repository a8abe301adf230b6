"""What to write instead of a value of another type: numbers in quotes, Python's words, other programs' names."""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from nanogpt_kit.core.errors import Key, dotted
from nanogpt_kit.core.overrides import COMMAND_LINE

NO_VALUE = ("", "none", "null", "nil", "undefined", "unset", "off", "auto", "default")  # for an option that is left out
BOOLEANS = {"true": ("true", "yes", "on", "1"), "false": ("false", "no", "off", "0")}
UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9}  # of a count, as in 10k tokens
SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}
NUMBER = re.compile(r"[+-]?(?:\d+(?:,\d{3})+|\d*\.?\d+|\d+\.)(?:e[+-]?\d+)?")
TOML_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:e[+-]?\d+)?")
OTHER_VALUES = {  # a value here -> other programs' words for it
    "fp16": ("float16", "half", "16", "16-mixed"),
    "bf16": ("bfloat16", "bf16-mixed", "bf16-true"),
    "fp32": ("float32", "float", "32", "32-true", "full"),
    "cuda": ("gpu", "cuda:0", "0"),
    "default": ("true", "on", "yes", "1"),
    "off": ("false", "no", "none", "null", "0", "disable", "disabled"),
    "minimize": ("min", "lower"),
    "maximize": ("max", "higher"),
}


def value_remedy(detail: ErrorDetails, name: str, field: FieldInfo | None) -> str:
    """What to write instead of the value of option `name`, as in "write 3e-4 without quotes"; or empty."""
    kind, value = detail["type"], detail["input"]
    if kind == "literal_error":
        near = nearest_value(value, re.findall(r"'([^']*)'", detail.get("ctx", {}).get("expected", "")))
        return f"did you mean {near!r}?" if near else ""
    if kind == "bool_type":
        truth = boolean_word(str(value))
        return f"write {truth}" if truth else ""
    if kind == "string_pattern_mismatch":
        near = re.sub(r"[^A-Za-z0-9._-]+", "-", value).strip("-")
        return f"write {near}" if re.match(detail.get("ctx", {}).get("pattern", ""), near) else ""
    if kind not in ("int_type", "float_type"):
        return ""
    number = number_text(value, kind == "int_type", SECONDS if name.endswith("seconds") else UNITS)
    if number:
        return f"write {number}{' without quotes' if value == number else ''}"
    if field is None or field.is_required() or not isinstance(value, str) or value.lower() not in NO_VALUE:
        return ""
    default = field.get_default(call_default_factory=True)
    about = "" if default is None else f", and it is {json.dumps(default)} ({field.description})"
    return f"leave the option out{about}"


def boolean_word(word: str) -> str:
    """ "true" or "false", of Python's True or of yes; empty for other words."""
    return next((truth for truth, words in BOOLEANS.items() if word.lower() in words), "")


def nearest_value(value: Any, allowed: Sequence[str]) -> str:
    """The one of `allowed` that another program's word means, or that is spelt alike; empty where none is."""
    text = str(value).lower().removeprefix("torch.")
    meant = (one for one in allowed if text in OTHER_VALUES.get(one, ()) or spelling(text) == spelling(one))
    close = difflib.get_close_matches(text, allowed, n=1)
    return next(meant, close[0] if close else "")


def spelling(word: str) -> str:
    return re.sub(r"[\W_]", "", word.lower())


def number_text(value: Any, is_whole: bool, units: Mapping[str, int]) -> str:
    """A number as TOML has it, of "10k", "1,000", ".5" or 1e3; empty where `value` is none, or not whole."""
    if isinstance(value, float):
        return str(int(value)) if is_whole and value.is_integer() else ""
    text = value.strip().lower().replace("_", "").removeprefix("+") if isinstance(value, str) else ""
    text = re.sub(r"(e[+-]?\d+)\.0*$", r"\1", text)  # an exponent is whole
    unit = text[-1:] if text[-1:].isalpha() else ""
    digits = text.removesuffix(unit)
    if unit not in units or not NUMBER.fullmatch(digits):
        return ""
    number = float(digits.replace(",", "")) * units[unit]
    if is_whole or unit:
        return str(int(number)) if number.is_integer() else ""
    return text if TOML_NUMBER.fullmatch(text) else repr(number)


def list_example(value: Any, key: Key, default: Any, location: str) -> str:
    """A list with the words of `value`, or else the default, as it is written at `location`; empty where there is none.

    For a command line it is in quotes for the shell.
    """
    elements: list[Any] = []
    if isinstance(default, tuple) and default and isinstance(default[0], float):
        elements = list(default)
    elif isinstance(value, str) and value.lower() not in NO_VALUE:
        elements = [word.strip(" '\"") for word in value.strip("[]() ").split(",")]
    elif not isinstance(value, str) or not isinstance(default, tuple):
        return ""
    text = json.dumps(elements, ensure_ascii=False)
    return shlex.quote(f"{dotted(key)}={text}") if location == COMMAND_LINE else f"{key[-1]} = {text}"
