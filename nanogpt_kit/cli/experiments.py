"""`nanogpt-kit experiments list`: the experiments that are shipped, and those in the current folder."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click

from nanogpt_kit.cli.json_output import json_option, print_json
from nanogpt_kit.cli.top_help import SubcommandHelp
from nanogpt_kit.core.errors import printable
from nanogpt_kit.core.shipped import EXPECTED, GROUPS, local_experiments, read_header, shipped_experiments

NAME_WIDTH = 22
MAX_WIDTH = 120
LOCAL = "In the current folder"
OTHERS = "Others"  # shipped experiments that GROUPS does not name


@click.group(cls=SubcommandHelp)
def experiments() -> None:
    """List the experiments that `run` and other verbs take by name."""


@experiments.command("list")
@json_option("Print a JSON list.")
def list_experiments(as_json: bool) -> None:
    """List what is shipped and what is in this folder.

    Of each experiment: what it is for, and what it is expected to reach.
    `nanogpt-kit new FILE.toml --from NAME` writes a copy of one to edit.
    """
    records = [experiment_record(group, name, path) for group, name, path in grouped_experiments()]
    if as_json:
        print_json(records)
        return
    group = ""
    for record in records:
        if record["group"] != group:
            click.echo("\n" * bool(group) + record["group"])
            group = record["group"]
        click.echo(printable(format_record(record)))


def grouped_experiments() -> Iterator[tuple[str, str, Path]]:
    """(group, name, file) of each."""
    shipped = shipped_experiments()
    group_of = {name: group for group, names in GROUPS.items() for name in names}
    for name, path in shipped.items():
        yield group_of.get(name, OTHERS), name, path
    for name, path in local_experiments().items():
        yield LOCAL, name, path


def experiment_record(group: str, name: str, path: Path) -> dict[str, str]:
    header = read_header(path)
    return {"name": name, "group": group, "purpose": header.purpose, "expected": header.expected, "file": str(path)}


def format_record(record: dict[str, str]) -> str:
    """The name, and beside it what the experiment is and what to expect."""
    texts = [record["purpose"], EXPECTED + record["expected"] if record["expected"] else ""]
    indent = f"  {'':{NAME_WIDTH}} "
    wrapper = textwrap.TextWrapper(terminal_width() - len(indent), break_long_words=False, break_on_hyphens=False)
    lines = [line for text in texts for line in wrapper.wrap(text)]
    name = f"  {record['name']:{NAME_WIDTH}} "
    return "\n".join([(name + "".join(lines[:1])).rstrip(), *(indent + line for line in lines[1:])])


def terminal_width() -> int:
    """Columns at which lines are wrapped; in a pipe they are not."""
    return min(MAX_WIDTH, shutil.get_terminal_size().columns) if sys.stdout.isatty() else sys.maxsize
