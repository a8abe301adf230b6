"""`nanogpt-kit check EXPERIMENT`: whether it is valid, all its options with defaults, the size of its model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nanogpt_kit.cli.experiment import EXPERIMENT, OVERRIDES, TRUST, load_experiment
from nanogpt_kit.cli.json_output import json_option, print_json
from nanogpt_kit.cli.lines import print_lines
from nanogpt_kit.cli.slow_note import note_if_slow
from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.system.garbage_collection import without_garbage_collection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nanogpt_kit.core.experiment import Experiment
    from nanogpt_kit.core.kinds import Role
    from nanogpt_kit.nn.flops import ModelSize
    from nanogpt_kit.sweep.space.space import Space


@click.command()
@EXPERIMENT
@OVERRIDES
@click.option(
    "--explain",
    is_flag=True,
    help="Print every option, its value, where it was set and the default it differs from; and the model's size.",
)
@json_option("Print what --explain prints as a JSON object.")
@click.option("--nproc", type=click.IntRange(1), default=1, help="Processes of the run, or of each trial of a sweep.")
@TRUST
def check(
    experiment: str, overrides: tuple[str, ...], explain: bool, as_json: bool, nproc: int, trust_code: bool
) -> None:
    """Validate EXPERIMENT without running it: its options, model, text and named runs, and the trials of a sweep.

    What `run` would refuse before it reads the text is refused with the same message. Nothing is downloaded.
    """
    with note_if_slow("importing torch and the components"):
        chosen = load_experiment(experiment, overrides, trust_code, nproc)
    with (
        note_if_slow("checking the model, its memory, the text and the runs that are named"),
        without_garbage_collection(),
    ):
        from nanogpt_kit.train.before_data import ASSUMED_VOCABULARY, check_without_running

        module = check_without_running(chosen, nproc, trust_code)
    space = check_tables(chosen, nproc)
    if not (explain or as_json):
        click.echo(f"{experiment} is valid")
        return
    from nanogpt_kit.cli.explained import option_values_record, print_option_values
    from nanogpt_kit.cli.explained_groups import groups_record, print_groups
    from nanogpt_kit.cli.proportions_text import print_proportions, proportions_record
    from nanogpt_kit.nn.flops import size_of_module
    from nanogpt_kit.nn.initial_weights import planned_rates

    known = chosen.tokenizer.known_vocab_size()
    size = None if module is None else size_of_module(module, chosen.model.block_size)
    rates = None if module is None else planned_rates(chosen, module, known or ASSUMED_VOCABULARY)
    if as_json:
        counts = vars(size) if size else {}
        record = {"multipliers": vars(chosen.multipliers), "peak_learning_rates": rates}
        sources = {"sources": proportions} if (proportions := proportions_record(chosen)) else {}
        options = option_values_record(chosen, space)
        groups = groups_record(chosen, module)
        model = {"vocab_size": known, **counts}
        print_json({"options": options, "model": model, "init": record, "groups": groups, **sources})
        return
    print_option_values(chosen, space)
    click.echo()
    print_model_size(size, known)
    print_init(chosen, rates)
    print_groups(chosen, module)
    print_proportions(chosen)


def check_tables(chosen: Experiment, nproc: int) -> Space | None:
    """Checks [sweep] and [ablate]; the space of the sweep. Raises KitError with the faults of both."""
    space, faults = None, list[Fault]()
    if chosen.sweep is not None:
        with note_if_slow("checking the endpoints of the sweep"):
            from nanogpt_kit.sweep.session import check_sweep

            try:
                space, _ = check_sweep(chosen, nproc)
            except KitError as error:
                faults += error.faults
    if chosen.ablate is not None:
        with note_if_slow("checking the arms of the ablation"):
            from nanogpt_kit.sweep.ablation import ablation_question, has_changes

            try:
                if has_changes(chosen):
                    ablation_question(chosen, nproc=nproc)
            except KitError as error:
                faults += error.faults
    if faults:
        raise KitError(*faults)
    return space


def print_model_size(size: ModelSize | None, known: int | None) -> None:
    from nanogpt_kit.train.before_data import ASSUMED_VOCABULARY

    if size is None:
        print_lines("the size of the model is unknown until it is built")
        return
    tokens = f"a vocabulary of {known or ASSUMED_VOCABULARY:,} tokens"
    guess = "" if known else ", an assumption: the tokenizer learns it from the text"
    roles = ", ".join(f"{role} {count:,}" for role, count in size.parameters.items())
    trained = "" if size.trained == size.total else f"; {size.trained:,} of them are trained"
    print_lines(f"{size.total:,} parameters: {roles}; with {tokens}{guess}{trained}")
    flops = "unknown" if size.flops_per_token is None else f"{size.flops_per_token / 1e6:,.1f} million"
    print_lines(f"FLOPs per trained token, forward and backward at full context: {flops}")


def print_init(chosen: Experiment, rates: Mapping[Role, tuple[float, float]] | None) -> None:
    """What the init has chosen besides weights: learning rates, where they differ, and factors other than 1."""
    from nanogpt_kit.core.kinds import Multipliers
    from nanogpt_kit.nn.parameter_groups import describe_rates

    multipliers = chosen.multipliers
    if multipliers != Multipliers():
        print_lines(f"multipliers in the forward pass: {multipliers}")
    if text := describe_rates(rates or {}):
        print_lines(f"peak learning rates: {text}")
