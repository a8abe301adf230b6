"""`--json`: the result of a verb as one JSON value on standard output; everything else goes to standard error.

Where a command ends without a result, standard output stays empty: the exit code says why, and the message on standard
error is for people.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from typing import Any

import click

from nanogpt_kit.cli.output import continue_without_reader
from nanogpt_kit.core.errors import printable

STDOUT = "nanogpt_kit.stdout"  # key of ctx.meta: standard output, while sys.stdout is standard error


def json_option(description: str = "Print a JSON object.") -> Callable[[Any], Any]:
    """The option `--json`, as `as_json`; the verb prints its result with `print_json`."""
    return click.option("--json", "as_json", is_flag=True, callback=reserve_stdout, help=description)


def reserve_stdout(ctx: click.Context, option: click.Parameter, value: bool) -> bool:
    """Keeps standard output for the result, since components may print, too. It lasts as long as the command."""
    if value and not ctx.resilient_parsing:
        continue_without_reader()
        ctx.meta[STDOUT] = sys.stdout
        ctx.find_root().with_resource(redirect_stdout(sys.stderr))
    return value


def print_json(result: object) -> None:
    """Prints the result of a command that has got `--json`. NaN and infinity, which JSON lacks, become null."""
    stdout = click.get_current_context().meta[STDOUT]
    if stdout is not None:  # it was closed before Python started
        text = json.dumps(with_nulls(result), indent=2, ensure_ascii=False, allow_nan=False)
        click.echo(printable(text), file=stdout)


def with_nulls(value: object) -> object:
    """The same value with None for each number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: with_nulls(inner) for key, inner in value.items()}
    return [with_nulls(inner) for inner in value] if isinstance(value, list | tuple) else value
