"""Arguments in the wrong order, and overrides that a blank has torn apart: callbacks of arguments."""

from __future__ import annotations

import os
import re
import shlex
from typing import Any

import click

from nanogpt_kit.cli.option_remedy import WORDS
from nanogpt_kit.cli.paths import expand_path_argument
from nanogpt_kit.core.errors import KitError

KEY = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+)+")


def experiment_argument(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """The experiment, its path expanded. Raises KitError for an override in its place."""
    if isinstance(value, str) and "=" in value and not os.path.exists(value):
        words: list[str] = ctx.meta.get(WORDS, [])
        following = words[words.index(value) :] if value in words else []
        later = [word for word in following if "=" not in word and not word.startswith("-")]
        name = shlex.quote(later[0]) if later else "EXPERIMENT"
        raise KitError(f"command line: the experiment comes first: {ctx.command_path} {name} {shlex.quote(value)}")
    return expand_path_argument(ctx, param, value)


def override_arguments(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """The overrides as they are. Raises KitError for one that is written with blanks or a colon."""
    for index, word in enumerate(value):
        joined = rejoined(value[index : index + 3])
        if joined:
            raise KitError(f"command line: expected key=value, got {word!r}; write {shlex.quote(joined)}")
    return value


def rejoined(words: tuple[str, ...]) -> str:
    """ "key=value" where the first word is a key, or a key and "=", and its value is in the next ones; else empty."""
    key, equals, value = words[0].partition("=")
    if ":" in key and not equals:
        key, equals, value = key.partition(":")
        return f"{key}={value}" if value and KEY.fullmatch(key) else ""
    following = list(words[1:])
    if not KEY.fullmatch(key) or value or not following:
        return ""
    if not equals and following[0] == "=":
        following.pop(0)
    if not following or ("=" in following[0] and not following[0].startswith("=")):
        return ""
    return f"{key}={following[0].removeprefix('=')}"
