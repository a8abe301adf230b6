"""`nanogpt-kit explain [KEY]`: what an option, a section, a component or a kind is, and what it may be."""

from __future__ import annotations

import json

import click

from nanogpt_kit.cli.override_candidates import key_candidates
from nanogpt_kit.core.errors import printable


@click.command()
@click.argument("key", required=False, shell_complete=key_candidates)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def explain(key: str | None, as_json: bool) -> None:
    """Explain KEY: an option such as optimizer.betas, a section such as train, a component such as rope, or a kind
    such as attention.

    Without KEY, list the sections and kinds. The last part of a key is enough, as in lr.
    """
    from nanogpt_kit.cli.experiment import without_garbage_collection
    from nanogpt_kit.cli.option_text import found_records, found_text, overview_record, overview_text

    if key is None:
        click.echo(json.dumps(overview_record(), indent=2) if as_json else printable(overview_text()))
        return
    with without_garbage_collection():  # components import torch
        from nanogpt_kit.core.lookup import find_by_name, other_meaning

        found = find_by_name(key)
        other = other_meaning(key, found)
        text = json.dumps(found_records(found), indent=2) if as_json else "\n\n".join(map(found_text, found))
    click.echo(printable(text))
    if other:
        click.echo(printable(f"note: another program's {key} is {other} here"), err=True)
