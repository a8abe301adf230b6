"""`nanogpt-kit eval RUN...`: run evaluators on trained models."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

import click

from nanogpt_kit.cli.candidates import evaluator_candidates
from nanogpt_kit.cli.experiment import STEP, TRUST, WEIGHTS, check_overrides, print_notes
from nanogpt_kit.cli.json_output import json_option, print_json
from nanogpt_kit.cli.lines import print_lines
from nanogpt_kit.cli.option_remedy import OVERRIDABLE
from nanogpt_kit.cli.override_candidates import run_or_override_candidates
from nanogpt_kit.cli.texts import print_generated
from nanogpt_kit.core.errors import KitError, printable
from nanogpt_kit.core.paths import expand_path


@click.command("eval")
@click.argument(
    "runs", nargs=-1, required=True, metavar="RUN... [KEY=VALUE]...", shell_complete=run_or_override_candidates
)
@click.option(
    "--evaluator",
    "evaluators",
    multiple=True,
    metavar="NAME",
    shell_complete=evaluator_candidates,
    help='Use this evaluator instead of the run\'s; repeatable. With options: \'{use="perplexity", file="a.txt"}\'.',
)
@json_option("Print a JSON object with the metrics of each run.")
@click.option("--raw", is_flag=True, help="Do not escape control characters in texts on a terminal.")
@STEP
@WEIGHTS
@TRUST
def evaluate(
    runs: tuple[str, ...],
    evaluators: tuple[str, ...],
    as_json: bool,
    raw: bool,
    step: int | None,
    weights: str | None,
    trust_code: bool,
) -> None:
    """Evaluate each RUN: a run folder, a run id, an experiment's name, or an exported model.

    NAME is the newest finished run of an experiment, NAME@best the one with the lowest validation loss, and RUN@STEP
    an earlier checkpoint. Each run is printed on standard error.

    KEY=VALUE sets options of evaluators, as in evaluator.perplexity.file=a.txt, and evaluate.batch_size or
    train.precision. For a model in another program's format it may also name the tokenizer, as in tokenizer=byte; the
    default is GPT-2's.
    """
    overrides = [text for text in runs if "=" in text and not os.path.exists(text)]
    names = [expand_path(text, "RUN", "command line") for text in runs if text not in overrides]
    if not names:
        raise KitError("eval: expected a run before the options")
    check_overrides(overrides, OVERRIDABLE["eval"], names)
    if evaluators:
        chosen = ", ".join(text if text.lstrip().startswith("{") else json.dumps(text) for text in evaluators)
        overrides.insert(0, f"evaluator=[{chosen}]")
    from nanogpt_kit.generate.load import load_model
    from nanogpt_kit.generate.source import find_model, find_run_or_format
    from nanogpt_kit.runs import samples
    from nanogpt_kit.train.evaluation import evaluate_trained_model
    from nanogpt_kit.train.precision import choose_device

    def print_samples(texts: Sequence[str]) -> None:
        print_generated(samples.BETWEEN.join(texts) + "\n", raw, err=as_json)

    for run in names:
        find_run_or_format(run, step)  # a misspelt name is reported before the others are evaluated
    results: dict[str, dict[str, float]] = {}
    try:
        for run in names:
            source = find_model(run, step, weights)
            print_lines(source.described(), err=True)
            loaded = load_model(source, choose_device("auto"), trust_code, overrides, weights, ("dataset", "evaluator"))
            print_notes(loaded.experiment.layers.notes)
            if len(names) > 1 and not as_json:
                click.echo(f"{run}:")
            metrics = evaluate_trained_model(loaded, print_samples)
            results[run] = metrics
            width = max(map(len, metrics), default=0)
            for name, value in metrics.items() if not as_json else ():
                click.echo(printable(f"{name:<{width}}  {value:.4f}"))
    finally:  # results are printed even if a later run fails
        if as_json and results:
            print_json(results)
