"""`nanogpt-kit explain [KEY]`: what an option, a section, a component or a kind is, and what it may be."""

from __future__ import annotations

import click

from nanogpt_kit.cli.json_output import json_option, print_json
from nanogpt_kit.cli.override_candidates import key_candidates
from nanogpt_kit.core.errors import printable


@click.command()
@click.argument("key", required=False, shell_complete=key_candidates)
@json_option("Print a JSON list; without KEY, an object.")
def explain(key: str | None, as_json: bool) -> None:
    """Explain KEY: an option such as optimizer.betas, a section such as train, a component such as rope, or a kind
    such as attention.

    Without KEY, list the sections and kinds. The last part of a key is enough, as in lr.
    """
    from nanogpt_kit.cli.option_text import found_records, found_text, overview_record, overview_text
    from nanogpt_kit.system.garbage_collection import without_garbage_collection

    if key is None:
        print_json(overview_record()) if as_json else click.echo(printable(overview_text()))
        return
    with without_garbage_collection():  # components import torch
        from nanogpt_kit.core.lookup import find_by_name, other_meaning

        found = find_by_name(key)
        other = other_meaning(key, found)
        text = "" if as_json else "\n\n".join(dict.fromkeys(map(found_text, found)))
        records = found_records(found) if as_json else []
    print_json(records) if as_json else click.echo(printable(text))
    if other:
        click.echo(printable(f"note: another program's {key} is {other} here"), err=True)
