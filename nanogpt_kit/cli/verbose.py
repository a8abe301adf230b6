"""The option `--verbose`: a command also prints the reasons for what it chose."""

from __future__ import annotations

import logging

import click

LOGGER = logging.getLogger("nanogpt_kit")


def log_reasons(ctx: click.Context, param: click.Parameter, is_verbose: bool) -> None:
    """The click callback of the option: reasons are logged at the level DEBUG, until the command has ended."""
    if is_verbose:
        ctx.call_on_close(lambda level=LOGGER.level: LOGGER.setLevel(level))
        LOGGER.setLevel(logging.DEBUG)


def is_verbose() -> bool:
    return LOGGER.isEnabledFor(logging.DEBUG)


VERBOSE = click.option(
    "-v",
    "--verbose",
    is_flag=True,
    expose_value=False,
    callback=log_reasons,
    help="Also print why: precision, threads, kernels, compiling.",
)
