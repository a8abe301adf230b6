"""`nanogpt-kit prepare EXP`: only the data."""

from __future__ import annotations

import click

from nanogpt_kit.cli.experiment import EXPERIMENT, OVERRIDES, TRUST, load


@click.command()
@EXPERIMENT
@OVERRIDES
@TRUST
def prepare(experiment: str, overrides: tuple[str, ...], trust_code: bool) -> None:
    """Turn EXPERIMENT's text into tokens on disk, where that has not been done yet."""
    chosen = load(experiment, overrides, trust_code)
    from nanogpt_kit.data import prepare as preparation

    prepared = preparation.prepare(chosen)
    for split, values in prepared.splits.items():
        per_token = values["bytes"] / max(1, values["tokens"])
        counts = f"{values['documents']:,} documents, {values['bytes']:,} bytes, {values['tokens']:,} tokens"
        click.echo(f"{split:6}{counts} ({per_token:.2f} bytes a token)")
    for name, bits in prepared.references.items():
        click.echo(f"{name} needs {bits:.3f} bits a byte on val")
    click.echo(str(prepared.path))
