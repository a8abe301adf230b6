"""`nanogpt-kit check EXP`: is it valid, what does it say with all defaults filled in, and how large is its model?"""

from __future__ import annotations

import json

import click

from nanogpt_kit.cli.experiment import EXPERIMENT, OVERRIDES, TRUST, load
from nanogpt_kit.core.errors import dotted

GUESSED_VOCABULARY = 256  # tokens, where only the text would tell


@click.command()
@EXPERIMENT
@OVERRIDES
@click.option("--explain", is_flag=True, help="Print every value with the place it comes from, and the model's size.")
@click.option("--json", "as_json", is_flag=True, help="With --explain: a JSON object.")
@TRUST
def check(experiment: str, overrides: tuple[str, ...], explain: bool, as_json: bool, trust_code: bool) -> None:
    """Validate EXPERIMENT without running it."""
    chosen = load(experiment, overrides, trust_code)
    from nanogpt_kit.core.options import leaves
    from nanogpt_kit.nn.blank import check_parts

    check_parts(chosen)
    if not explain:
        click.echo(f"{experiment} is valid")
        return
    from nanogpt_kit.nn.flops import measure

    known = chosen.tokenizer.known_vocab_size()
    size = measure(chosen.model, known or GUESSED_VOCABULARY)
    values = {dotted(key): (value, chosen.place(key)) for key, value in leaves(chosen.resolved())}
    if as_json:
        origins = {key: {"value": value, "from": origin} for key, (value, origin) in values.items()}
        counts = {"parameters": size.parameters, "flops_per_token": size.flops_per_token} if size else {}
        click.echo(json.dumps({"options": origins, "model": {"vocab_size": known, **counts}}, indent=2))
        return
    shown = {key: f"{key} = {json.dumps(value)}" for key, (value, _) in values.items()}
    width = min(60, max(map(len, shown.values())))
    for key, (_, origin) in values.items():
        click.echo(f"{shown[key]:{width}}  # {origin}")
    click.echo()
    if size is None:
        click.echo("the model cannot be counted without building it")
        return
    tokens = f"a vocabulary of {known or GUESSED_VOCABULARY:,} tokens"
    guess = "" if known else ", a guess: the tokenizer learns it from the text"
    roles = ", ".join(f"{role} {count:,}" for role, count in size.parameters.items())
    click.echo(f"{size.total:,} parameters: {roles}; with {tokens}{guess}")
    flops = "an unknown number of" if size.flops_per_token is None else f"{size.flops_per_token / 1e6:,.1f} million"
    click.echo(f"{flops} FLOPs to train on a token, forward and backward, at full context")
