"""`nanogpt-kit check EXPERIMENT`: whether it is valid, all its options with defaults, the size of its model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from nanogpt_kit.cli.experiment import EXPERIMENT, OVERRIDES, TRUST, load_experiment

if TYPE_CHECKING:
    from nanogpt_kit.nn.flops import ModelSize

ASSUMED_VOCABULARY = 256  # tokens, where the tokenizer learns it from the text


@click.command()
@EXPERIMENT
@OVERRIDES
@click.option(
    "--explain",
    is_flag=True,
    help="Print every option, its value, where it was set and the default it differs from; and the model's size.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what --explain prints as a JSON object.")
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

    known = chosen.tokenizer.known_vocab_size() if explain or as_json else None
    module = check_model_parts(chosen, known or ASSUMED_VOCABULARY)
    check_metric_options(chosen)
    space = None
    if chosen.sweep is not None:
        from nanogpt_kit.sweep.session import check_sweep

        space, _ = check_sweep(chosen, nproc)
    if not (explain or as_json):
        click.echo(f"{experiment} is valid")
        return
    from nanogpt_kit.cli.explained import option_values_record, print_option_values
    from nanogpt_kit.nn.flops import size_of_module

    size = None if module is None else size_of_module(module, chosen.model.block_size)
    if as_json:
        counts = {"parameters": size.parameters, "flops_per_token": size.flops_per_token} if size else {}
        options = option_values_record(chosen, space)
        click.echo(json.dumps({"options": options, "model": {"vocab_size": known, **counts}}, indent=2))
        return
    print_option_values(chosen, space)
    click.echo()
    print_model_size(size, known)


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
