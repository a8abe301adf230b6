"""`nanogpt-kit runs`: the runs of this folder: list, show, compare, remark on and remove them."""

from __future__ import annotations

import click

from nanogpt_kit.cli.ledger import list_comparisons
from nanogpt_kit.cli.runs_list import list_runs
from nanogpt_kit.cli.top_help import SubcommandHelp


@click.group(cls=SubcommandHelp)
def runs() -> None:
    """List the runs below the runs folder, and look up, remark on or remove some of them."""


for command in (list_runs, list_comparisons):
    runs.add_command(command)
