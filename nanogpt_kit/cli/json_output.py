"""`--json`: the result of a verb as one JSON value on standard output; everything else goes to standard error.

Where a command ends without a result, standard output stays empty: the exit code says why, and the message on standard
error is for people.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from typing import Any

import click

from nanogpt_kit.cli.output import check_written, continue_without_reader, stdout_file
from nanogpt_kit.core.errors import printable

STDOUT = "nanogpt_kit.stdout"  # key of ctx.meta: standard output, while sys.stdout is standard error
DESCRIPTOR = "nanogpt_kit.stdout.descriptor"  # of standard output, while OUT is standard error
OUT, ERR = 1, 2


def json_option(description: str = "Print a JSON object.") -> Callable[[Any], Any]:
    """The option `--json`, as `as_json`; the verb prints its result with `print_json`."""
    return click.option("--json", "as_json", is_flag=True, callback=begin_json, help=description)


def begin_json(ctx: click.Context, option: click.Parameter, value: bool) -> bool:
    if value and not ctx.resilient_parsing:
        continue_without_reader()
        reserve_stdout(ctx)
    return value


def reserve_stdout(ctx: click.Context) -> None:
    """Keeps standard output for results as long as the command lasts, since components may print, too.

    So may libraries and processes that they start, which know only the descriptor.
    """
    ctx.meta[STDOUT] = sys.stdout
    if stdout_file() is not None:
        ctx.meta[DESCRIPTOR] = saved = os.dup(OUT)
        ctx.find_root().call_on_close(lambda: os.close(saved))
        ctx.find_root().with_resource(redirected(ERR))
    ctx.find_root().with_resource(redirect_stdout(sys.stderr))


@contextmanager
def redirected(descriptor: int) -> Iterator[None]:
    """What is written to OUT goes to `descriptor` meanwhile, unless that is closed."""
    before = os.dup(OUT)
    try:
        with suppress(OSError):
            os.dup2(descriptor, OUT)
        yield
    finally:
        os.dup2(before, OUT)
        os.close(before)


def print_json(result: object, indent: int | None = 2) -> None:
    """Prints a result of a command that has got `--json`. NaN and infinity, which JSON lacks, become null."""
    text = json.dumps(with_nulls(result), indent=indent, ensure_ascii=False, allow_nan=False)
    meta = click.get_current_context().meta
    if (stdout := meta[STDOUT]) is not None:  # it was closed before Python started
        with redirected(meta[DESCRIPTOR]) if DESCRIPTOR in meta else nullcontext():
            click.echo(printable(text), file=stdout)
            check_written(stdout)


def with_nulls(value: object) -> object:
    """The same value with None for each number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: with_nulls(inner) for key, inner in value.items()}
    return [with_nulls(inner) for inner in value] if isinstance(value, list | tuple) else value
