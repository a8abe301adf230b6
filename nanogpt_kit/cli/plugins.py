"""`nanogpt-kit plugins`: installed components, their options, and what is wrong with them."""

from __future__ import annotations

import click

from nanogpt_kit.cli.plugins_doctor import plugins_doctor
from nanogpt_kit.cli.plugins_list import plugins_list
from nanogpt_kit.cli.plugins_new import plugins_new
from nanogpt_kit.cli.plugins_show import plugins_show
from nanogpt_kit.cli.plugins_test import plugins_test
from nanogpt_kit.cli.top_help import SubcommandHelp


@click.group(cls=SubcommandHelp)
def plugins() -> None:
    """List and show the components that experiments can use, write new ones, test them, and find the broken ones."""


for command in (plugins_list, plugins_show, plugins_new, plugins_test, plugins_doctor):
    plugins.add_command(command)
