"""`nanogpt-kit check EXP`: is it valid, what does it say with all defaults filled in, and how large is its model?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from nanogpt_kit.cli.experiment import EXPERIMENT, OVERRIDES, TRUST, load
from nanogpt_kit.core.errors import KitError, dotted

if TYPE_CHECKING:
    from nanogpt_kit.core.experiment import Experiment

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
    from nanogpt_kit.nn.blank import on_meta

    if not explain:
        on_meta(chosen.model)  # raises where its parts do not go together
        click.echo(f"{experiment} is valid")
        return
    size = model_size(chosen)
    values = {dotted(key): (value, chosen.place(key)) for key, value in leaves(chosen.resolved())}
    if as_json:
        origins = {key: {"value": value, "from": origin} for key, (value, origin) in values.items()}
        click.echo(json.dumps({"options": origins, "model": size}, indent=2))
        return
    shown = {key: f"{key} = {json.dumps(value)}" for key, (value, _) in values.items()}
    width = min(60, max(map(len, shown.values())))
    for key, (_, origin) in values.items():
        click.echo(f"{shown[key]:{width}}  # {origin}")
    roles = ", ".join(f"{role} {count:,}" for role, count in size["parameters"].items())
    click.echo(f"\n{sum(size['parameters'].values()):,} parameters: {roles}; with {size['vocabulary']}")
    flops = size["flops_per_token"]
    told = "an unknown number of" if flops is None else f"{flops / 1e6:,.1f} million"
    click.echo(f"{told} FLOPs to train on a token, forward and backward, at full context")


def model_size(experiment: Experiment) -> dict[str, Any]:
    """Counted without allocating anything. Raises KitError where the model's parts do not go together."""
    from nanogpt_kit.nn.flops import measure

    known = vocab_size(experiment)
    size = measure(experiment.model, known or GUESSED_VOCABULARY)
    unknown = f"a vocabulary of {GUESSED_VOCABULARY} tokens as a guess, since the tokenizer learns it from the text"
    return {
        "parameters": size.parameters,
        "flops_per_token": size.flops_per_token,
        "vocabulary": f"a vocabulary of {known:,} tokens" if known else unknown,
    }


class TextWanted(Exception):
    """A tokenizer has to read the text before it knows its vocabulary."""


def vocab_size(experiment: Experiment) -> int | None:
    """None where only the text would tell: checking touches no data."""
    from nanogpt_kit.core.kinds import TextContext

    def documents(split: str) -> Iterator[str]:
        raise TextWanted

    try:
        return experiment.tokenizer.build(TextContext(splits=experiment.dataset.splits, documents=documents)).vocab_size
    except (TextWanted, KitError):
        return None
