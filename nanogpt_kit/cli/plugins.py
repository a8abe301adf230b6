"""`nanogpt-kit plugins`: installed components and their options."""

from __future__ import annotations

import click

from nanogpt_kit.cli.candidates import component_candidates
from nanogpt_kit.cli.json_output import json_option, print_json
from nanogpt_kit.cli.plugins_new import plugins_new
from nanogpt_kit.cli.plugins_test import plugins_test
from nanogpt_kit.cli.top_help import SubcommandHelp
from nanogpt_kit.core.errors import KitError, did_you_mean, printable
from nanogpt_kit.core.registry import Registry


@click.group(cls=SubcommandHelp)
def plugins() -> None:
    """List the components that experiments can use, and show their options."""


@plugins.command("list")
@json_option("Print a JSON list.")
def list_plugins(as_json: bool) -> None:
    """List every installed component, without importing any."""
    entries = Registry.installed().entries
    if as_json:
        print_json([entry.record for entry in entries])
        return
    for entry in entries:
        click.echo(printable(f"{entry.kind:12} {entry.name:19} {entry.distribution} {entry.version}"))


@plugins.command("show")
@click.argument("name", shell_complete=component_candidates)
@json_option("Print a JSON list.")
def show_component(name: str, as_json: bool) -> None:
    """Show the options of component NAME, as in gpt, norm:layernorm or some-distribution/my_norm."""
    from nanogpt_kit.cli.option_text import component_record, component_text
    from nanogpt_kit.core.lookup import find_components

    components = list(find_components(name))
    if not components:
        names = {entry.name for entry in Registry.installed().entries}
        raise KitError(f"no component {name!r} is installed{did_you_mean(name.rpartition(':')[2], names)}")
    if as_json:
        print_json([component_record(found) for found in components])
        return
    click.echo(printable("\n\n".join(map(component_text, components))))


plugins.add_command(plugins_new)
plugins.add_command(plugins_test)
