"""`nanogpt-kit schema`: a JSON Schema with which editors complete and check experiment files."""

from __future__ import annotations

import json
from pathlib import Path

import click

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.system.writing import write_atomically


@click.command()
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="Write to FILE.  [default: print it]")
def schema(output: Path | None) -> None:
    """Write a JSON Schema of experiment files with all components that are installed, for editors.

    An experiment file names it in its first line: #:schema nanogpt-kit.schema.json
    """
    from nanogpt_kit.system.garbage_collection import without_garbage_collection

    with without_garbage_collection():  # components import torch
        from nanogpt_kit.core.schema import experiment_schema

        text = json.dumps(experiment_schema(), indent=2) + "\n"
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        write_atomically(output, text)
    except OSError as error:
        raise KitError(f"{output} cannot be written: {error.strerror}") from None
    click.echo(f"wrote {output}", err=True)
