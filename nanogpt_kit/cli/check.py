"""`nanogpt-kit check EXPERIMENT`: whether it is valid, all its options with defaults, the size of its model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from nanogpt_kit.cli.experiment import EXPERIMENT, OVERRIDES, TRUST, load_experiment
from nanogpt_kit.core.errors import dotted, printable

if TYPE_CHECKING:
    from nanogpt_kit.core.experiment import Experiment
    from nanogpt_kit.nn.flops import ModelSize
    from nanogpt_kit.sweep.space.space import Space

ASSUMED_VOCABULARY = 256  # tokens, where the tokenizer learns it from the text


@click.command()
@EXPERIMENT
@OVERRIDES
@click.option(
    "--explain", is_flag=True, help="Print every option, its value and where it was set; and the model's size."
)
@click.option("--json", "as_json", is_flag=True, help="With --explain: print a JSON object.")
@click.option(
    "--nproc", type=click.IntRange(1), default=1, help="Processes per trial of a sweep, as in `sweep --nproc`."
)
@TRUST
def check(
    experiment: str, overrides: tuple[str, ...], explain: bool, as_json: bool, nproc: int, trust_code: bool
) -> None:
    """Validate EXPERIMENT without running it; for a sweep, also whether this machine can run its trials."""
    chosen = load_experiment(experiment, overrides, trust_code, nproc)
    from nanogpt_kit.nn.uninitialized import check_model_parts
    from nanogpt_kit.train.metric_names import check_metric_options

    known = chosen.tokenizer.known_vocab_size() if explain else None
    module = check_model_parts(chosen, known or ASSUMED_VOCABULARY)
    check_metric_options(chosen)
    space = None
    if chosen.sweep is not None:
        from nanogpt_kit.sweep.session import check_sweep

        space, _ = check_sweep(chosen, nproc)
    if not explain:
        click.echo(f"{experiment} is valid")
        return
    from nanogpt_kit.nn.flops import size_of_module

    size = None if module is None else size_of_module(module, chosen.model.block_size)
    values, parameters = options_with_origins(chosen), {} if space is None else describe_space(space)
    if as_json:
        origins = {key: {"value": value, "from": origin} for key, (value, origin) in (values | parameters).items()}
        counts = {"parameters": size.parameters, "flops_per_token": size.flops_per_token} if size else {}
        click.echo(json.dumps({"options": origins, "model": {"vocab_size": known, **counts}}, indent=2))
        return
    lines = [(f"{key} = {json.dumps(value)}", origin) for key, (value, origin) in values.items()]
    lines += [(f"{key}: {text}", origin) for key, (text, origin) in parameters.items()]
    width = min(60, max(len(text) for text, _ in lines))
    for text, origin in lines:
        click.echo(printable(f"{text:{width}}  # {origin}"))
    click.echo()
    print_model_size(size, known)


def options_with_origins(chosen: Experiment) -> dict[str, tuple[Any, str]]:
    """Every dotted key with its value and where it was set; of [sweep] all but the space."""
    from nanogpt_kit.core.options import leaves
    from nanogpt_kit.runs.secrets import hide_password

    values = chosen.resolved()
    if chosen.sweep is not None:
        values["sweep"] = chosen.sweep.model_dump(exclude={"space"}, exclude_none=True)
        values["sweep"]["storage"] = hide_password(chosen.sweep.storage)
    return {dotted(key): (value, chosen.location(key)) for key, value in leaves(values)}


def describe_space(space: Space) -> dict[str, tuple[str, str]]:
    """Every parameter of a search space as text, and where it was written."""
    parameters = zip(space.describe().items(), space.entries, strict=True)
    return {f"sweep.space.{name}": (text, parameter.location) for (name, text), parameter in parameters}


def print_model_size(size: ModelSize | None, known: int | None) -> None:
    if size is None:
        click.echo("the size of the model is unknown until it is built")
        return
    tokens = f"a vocabulary of {known or ASSUMED_VOCABULARY:,} tokens"
    guess = "" if known else ", an assumption: the tokenizer learns it from the text"
    roles = ", ".join(f"{role} {count:,}" for role, count in size.parameters.items())
    click.echo(f"{size.total:,} parameters: {roles}; with {tokens}{guess}")
    flops = "unknown" if size.flops_per_token is None else f"{size.flops_per_token / 1e6:,.1f} million"
    click.echo(f"FLOPs per trained token, forward and backward at full context: {flops}")
