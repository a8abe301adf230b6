"""Lines for people: wrapped at words on a terminal, whole in pipes and files, where programs search them."""

from __future__ import annotations

import sys

import click

from nanogpt_kit.cli.output import is_terminal
from nanogpt_kit.core.errors import printable
from nanogpt_kit.system.terminal import terminal_width, wrap_lines


def print_lines(text: str, err: bool = False) -> None:
    """Prints text for people on standard output, or on standard error."""
    stream, text = sys.stderr if err else sys.stdout, printable(text)
    click.echo(wrap_lines(text, terminal_width(stream)) if is_terminal(stream) else text, err=err)
