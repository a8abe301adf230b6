"""`nanogpt-kit check EXP`: is it valid, what does it say with all defaults filled in, and how large is its model?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from nanogpt_kit.cli.experiment import EXPERIMENT, OVERRIDES, TRUST, load
from nanogpt_kit.core.errors import dotted, printable

if TYPE_CHECKING:
    from nanogpt_kit.core.experiment import Experiment
    from nanogpt_kit.nn.flops import ModelSize
    from nanogpt_kit.sweep.space.space import Space

GUESSED_VOCABULARY = 256  # tokens, where only the text would tell


@click.command()
@EXPERIMENT
@OVERRIDES
@click.option("--explain", is_flag=True, help="Print every value with the place it comes from, and the model's size.")
@click.option("--json", "as_json", is_flag=True, help="With --explain: a JSON object.")
@click.option("--nproc", type=click.IntRange(1), default=1, help="Processes of a sweep's trial, as in `sweep --nproc`.")
@TRUST
def check(
    experiment: str, overrides: tuple[str, ...], explain: bool, as_json: bool, nproc: int, trust_code: bool
) -> None:
    """Validate EXPERIMENT without running it, and its [sweep] table against this machine."""
    chosen = load(experiment, overrides, trust_code, nproc)
    from nanogpt_kit.nn.uninitialized import check_parts
    from nanogpt_kit.train.metric_names import check_metrics

    known = chosen.tokenizer.known_vocab_size() if explain else None
    module = check_parts(chosen, known or GUESSED_VOCABULARY)
    check_metrics(chosen)
    space = None
    if chosen.sweep is not None:
        from nanogpt_kit.sweep.session import checked

        space, _ = checked(chosen, nproc)
    if not explain:
        click.echo(f"{experiment} is valid")
        return
    from nanogpt_kit.nn.flops import size_of_module

    size = None if module is None else size_of_module(module, chosen.model.block_size)
    values, tried = options(chosen), {} if space is None else described(space)
    if as_json:
        origins = {key: {"value": value, "from": origin} for key, (value, origin) in (values | tried).items()}
        counts = {"parameters": size.parameters, "flops_per_token": size.flops_per_token} if size else {}
        click.echo(json.dumps({"options": origins, "model": {"vocab_size": known, **counts}}, indent=2))
        return
    lines = [(f"{key} = {json.dumps(value)}", origin) for key, (value, origin) in values.items()]
    lines += [(f"{key}: {words}", origin) for key, (words, origin) in tried.items()]
    width = min(60, max(len(words) for words, _ in lines))
    for words, origin in lines:
        click.echo(printable(f"{words:{width}}  # {origin}"))
    click.echo()
    show(size, known)


def options(chosen: Experiment) -> dict[str, tuple[Any, str]]:
    """Dotted keys, each with its value and where that was written; of [sweep] too, but for the space."""
    from nanogpt_kit.core.options import leaves
    from nanogpt_kit.runs.secrets import hide_password

    values = chosen.resolved()
    if chosen.sweep is not None:
        values["sweep"] = chosen.sweep.model_dump(exclude={"space"}, exclude_none=True)
        values["sweep"]["storage"] = hide_password(chosen.sweep.storage)
    return {dotted(key): (value, chosen.location(key)) for key, value in leaves(values)}


def described(space: Space) -> dict[str, tuple[str, str]]:
    """What is tried, in words, and where that was written."""
    words = zip(space.described().items(), space.conditionals, strict=True)
    return {f"sweep.space.{name}": (told, one.location) for (name, told), one in words}


def show(size: ModelSize | None, known: int | None) -> None:
    if size is None:
        click.echo("the model cannot be counted without building it")
        return
    tokens = f"a vocabulary of {known or GUESSED_VOCABULARY:,} tokens"
    guess = "" if known else ", a guess: the tokenizer learns it from the text"
    roles = ", ".join(f"{role} {count:,}" for role, count in size.parameters.items())
    click.echo(f"{size.total:,} parameters: {roles}; with {tokens}{guess}")
    flops = "an unknown number of" if size.flops_per_token is None else f"{size.flops_per_token / 1e6:,.1f} million"
    click.echo(f"{flops} FLOPs to train on a token, forward and backward, at full context")
