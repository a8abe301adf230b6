"""Lines for people: wrapped at words on a terminal, whole in pipes and files, where programs search them."""

from __future__ import annotations

import os
import sys
import textwrap
from typing import TextIO

import click

from nanogpt_kit.cli.output import is_terminal
from nanogpt_kit.core.errors import printable

HANG = 4  # columns by which the rest of a wrapped line is indented
MIN_WIDTH = 30  # columns of a text beside its label; else it begins on the next line


def print_lines(text: str, err: bool = False) -> None:
    """Prints text for people on standard output, or on standard error."""
    click.echo(wrap_for(sys.stderr if err else sys.stdout, printable(text)), err=err)


def wrap_for(stream: TextIO | None, text: str) -> str:
    """The text as it is printed to that stream."""
    return wrap_lines(text, terminal_width(stream)) if is_terminal(stream) else text


def terminal_width(stream: TextIO | None) -> int:
    """Columns of the terminal that `stream` writes to: COLUMNS, else those that the system reports, else 80."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return int(columns)
    try:
        return os.get_terminal_size(stream.fileno() if stream else -1).columns or 80
    except (OSError, ValueError):
        return 80


def wrap_lines(text: str, width: int) -> str:
    """Each line wrapped at spaces, its rest indented; words longer than a line, as paths may be, are not divided."""
    return "\n".join(wrap_line(line, width) for line in text.split("\n"))


def wrap_line(line: str, width: int, start: str = "") -> str:
    """`start` and the line, whose rest is indented by as much; where that leaves little space, it begins below."""
    if start and width - len(start) < MIN_WIDTH:
        return f"{start.rstrip()}\n{wrap_line(line, width, ' ' * 2 * HANG)}"
    indent = len(start) or len(line) - len(line.lstrip(" ")) + HANG
    parts = textwrap.wrap(
        start + line,
        width,
        subsequent_indent=" " * indent,
        replace_whitespace=False,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(parts)
