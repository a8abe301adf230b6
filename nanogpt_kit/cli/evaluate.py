"""`nanogpt-kit eval RUN...`: measure models that are there."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

import click

from nanogpt_kit.cli.experiment import STEP, TRUST, WEIGHTS, check_overrides
from nanogpt_kit.cli.writing import show as write
from nanogpt_kit.core.errors import KitError, printable
from nanogpt_kit.core.paths import expand_path

ALLOWED = ("evaluate", "evaluator", "sample", "sampler", "train.precision")


@click.command("eval")
@click.argument("runs", nargs=-1, required=True, metavar="RUN... [KEY=VALUE]...")
@click.option(
    "--evaluator",
    "evaluators",
    multiple=True,
    metavar="NAME",
    help='Instead of the run\'s own, several times perhaps; or with options: \'{use="perplexity", file="a.txt"}\'.',
)
@click.option("--json", "as_json", is_flag=True, help="One object: for each run its metrics.")
@click.option("--raw", is_flag=True, help="Do not escape control characters of texts on a terminal.")
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
    """Run evaluators on each RUN: a run folder, the name of an experiment (then its newest run), or an exported model.

    KEY=VALUE sets options of evaluators, as in evaluator.0.file=a.txt, and evaluate.batch_size or train.precision. A
    model in another program's format may need its tokenizer, as in tokenizer=byte; without one it is GPT-2's.
    """
    overrides = [text for text in runs if "=" in text and not os.path.exists(text)]
    named = [expand_path(text, "RUN", "command line") for text in runs if text not in overrides]
    if not named:
        raise KitError("eval: no run is named")
    check_overrides(overrides, ALLOWED, named)
    if evaluators:
        chosen = ", ".join(text if text.lstrip().startswith("{") else json.dumps(text) for text in evaluators)
        overrides.insert(0, f"evaluator=[{chosen}]")
    from nanogpt_kit.generate.load import is_foreign_model, load_run
    from nanogpt_kit.runs import folder, samples
    from nanogpt_kit.train.evaluation import evaluate_loaded
    from nanogpt_kit.train.precision import choose_device

    def show(texts: Sequence[str]) -> None:
        write(samples.BETWEEN.join(texts) + "\n", raw, err=as_json)

    for run in named:
        if not is_foreign_model(Path(run)):
            folder.find(run)  # before the others are measured for an hour
    found: dict[str, dict[str, float | None]] = {}
    try:
        for run in named:
            loaded = load_run(run, choose_device("auto"), trust_code, overrides, weights, step)
            if len(named) > 1 and not as_json:
                click.echo(f"{run}:")
            metrics = evaluate_loaded(loaded, show)
            found[run] = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
            width = max(map(len, metrics), default=0)
            for name, value in metrics.items() if not as_json else ():
                click.echo(printable(f"{name:<{width}}  {value:.4f}"))
    finally:  # what was found stands, whatever happens to a later one
        if as_json:
            click.echo(printable(json.dumps(found, ensure_ascii=False)))
