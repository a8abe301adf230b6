"""`nanogpt-kit trackio RUN...`: writes runs to trackio that were trained without it, or whose writer was killed."""

from __future__ import annotations

import click

from nanogpt_kit.api import KitError, open_run


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--project", default="", help="Project in trackio; default: the name of the experiment.")
def trackio(runs: tuple[str, ...], project: str) -> None:
    """Write the metrics, options and samples of each RUN to trackio; what it has already stays as it is."""
    import sqlite3

    from nanogpt_kit_trackio.mirror import Mirror

    for reference in runs:
        run = open_run(reference)
        try:
            mirror = Mirror(run.path, project)
            mirror.reconcile(run.status)
        except (OSError, ValueError, sqlite3.Error) as error:
            raise KitError(f"{reference} cannot be written to trackio: {error}") from error
        click.echo(f"{mirror.project}/{mirror.name}")
