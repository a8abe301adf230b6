"""`nanogpt-kit check EXP`: is it valid, and what does it say with all defaults filled in?"""

from __future__ import annotations

import json

import click

from nanogpt_kit.cli.experiment import EXPERIMENT, OVERRIDES, TRUST, load
from nanogpt_kit.core.errors import dotted


@click.command()
@EXPERIMENT
@OVERRIDES
@click.option("--explain", is_flag=True, help="Print every value with the place it comes from.")
@click.option("--json", "as_json", is_flag=True, help="With --explain: a JSON object.")
@TRUST
def check(experiment: str, overrides: tuple[str, ...], explain: bool, as_json: bool, trust_code: bool) -> None:
    """Validate EXPERIMENT without running it."""
    chosen = load(experiment, overrides, trust_code)
    if not explain:
        click.echo(f"{experiment} is valid")
        return
    from nanogpt_kit.core.options import leaves

    values = {dotted(key): (value, chosen.place(key)) for key, value in leaves(chosen.resolved())}
    if as_json:
        click.echo(
            json.dumps({key: {"value": value, "from": origin} for key, (value, origin) in values.items()}, indent=2)
        )
        return
    shown = {key: f"{key} = {json.dumps(value)}" for key, (value, _) in values.items()}
    width = min(60, max(map(len, shown.values())))
    for key, (_, origin) in values.items():
        click.echo(f"{shown[key]:{width}}  # {origin}")
