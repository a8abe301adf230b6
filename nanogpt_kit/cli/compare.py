"""`nanogpt-kit compare BASE CONTENDER...`: is a contender better than the base, over the same seeds?"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import click

from nanogpt_kit.cli.experiment import TRUST, print_notes
from nanogpt_kit.cli.json_output import json_option, print_json
from nanogpt_kit.cli.lines import print_lines
from nanogpt_kit.cli.output import continue_without_reader
from nanogpt_kit.cli.override_candidates import arm_candidates
from nanogpt_kit.cli.slow_note import note_if_slow
from nanogpt_kit.core.errors import Fault, KitError, notes_of
from nanogpt_kit.runs.secrets import hide_in_command
from nanogpt_kit.system.garbage_collection import without_garbage_collection

if TYPE_CHECKING:
    from nanogpt_kit.cli.comparison_answer import CompareOptions
    from nanogpt_kit.comparison.question import Question

EXAMPLE = "nanogpt-kit compare quickstart model.mlp=swiglu --seeds 3"


@click.command()
@click.argument("arms", nargs=-1, required=True, metavar="BASE [CONTENDER]...", shell_complete=arm_candidates)
@click.option(
    "--seeds",
    type=click.IntRange(1),
    help="Compare this many seeds, from train.seed of BASE on; train what is missing.  [default: finished runs only]",
)
@click.option("--metric", default="val/loss", show_default=True, help="Metric of the last evaluation that decides.")
@click.option(
    "--direction",
    type=click.Choice(["minimize", "maximize"]),
    default="minimize",
    show_default=True,
    help="Direction in which the metric improves.",
)
@click.option("--target", type=float, metavar="VALUE", help="Also show the cost of reaching this value of the metric.")
@click.option("--tokens-saved", is_flag=True, help="Also express the difference in tokens, by further runs.")
@click.option("--noise", is_flag=True, help="Measure the spread over seeds instead, and the smallest visible effect.")
@click.option("--again", is_flag=True, help="Train every run again, also where a finished one has the answer.")
@click.option("--workers", type=click.IntRange(1), default=1, help="Number of parallel runs on this machine.")
@click.option(
    "--storage",
    metavar="URL",
    default="journal",
    envvar="NANOGPT_KIT_STORAGE",
    help="Storage that several machines share, as in sweep.storage.",
)
@click.option("--nproc", type=click.IntRange(1), default=1, help="Processes of each run, as in `run --nproc`.")
@click.option("--text", default="", metavar="TEXT", help="Reason for the comparison, for the ledger.")
@click.option("--open-test", is_flag=True, help="Also evaluate on the test split; once for each test split.")
@click.option("--preview", is_flag=True, help="Show arms, runs and an estimate of the time, and exit.")
@json_option("Print the comparison, or the preview, as a JSON object.")
@TRUST
def compare(
    arms: tuple[str, ...],
    metric: str,
    direction: Literal["minimize", "maximize"],
    text: str,
    preview: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare each CONTENDER with BASE over the same seeds: it is better, worse or undecided.

    BASE is an experiment (a file or a name) or the runs of one configuration: a run, a folder of runs, a trial of a
    sweep. A CONTENDER is one of these, or a change of BASE, as in model.mlp=swiglu; several options that change
    together are one argument, as in 'model.mlp=swiglu optimizer.lr=2e-3'.

    Without --seeds, finished runs are compared. With --seeds N, missing runs are trained, and finished ones answer
    without being trained again. Decide on N beforehand: seeds that are added later widen the interval.

    The exit code is 0 where a contender is better, else 3 where one is undecided, else 4.
    """
    check_options(arms, options)
    continue_without_reader()
    with note_if_slow("reading the arms"), without_garbage_collection():  # components import torch
        from nanogpt_kit.cli.comparison_answer import CompareOptions, ComparisonAnswer
        from nanogpt_kit.comparison.ledger import record_path, report_command

    chosen = CompareOptions(command=hide_in_command(["nanogpt-kit", *sys.argv[1:]]), **options)
    question = read_question(arms, metric, direction, text, chosen)
    if preview:
        print_preview(question, chosen, as_json)
        return
    import rich

    rich.reconfigure(stderr=True)
    try:
        answer = ComparisonAnswer.find(question, chosen)
    except KeyboardInterrupt as error:
        if not notes_of(error):  # stopped between runs
            error.add_note(f"stopped; finished runs are kept in {question.folder()}; continue with: {chosen.command}")
        raise
    if answer.left_out:
        print_lines(answer.left_out, err=True)
    print_lines(f"record: {record_path(answer.comparison)}", err=True)
    print_lines(f"report: {report_command(answer.comparison)}", err=True)
    if as_json:
        print_json(answer.record())
    else:
        print_lines("\n".join(answer.lines()))
    click.get_current_context().exit(answer.exit_code)


def check_options(arms: Sequence[str], options: Mapping[str, Any]) -> None:
    """Raises KitError with every fault in the options that were given together."""
    contenders, faults = len(arms) - 1, []
    if options["noise"]:
        others = [f"--{name.replace('_', '-')}" for name in ("target", "tokens_saved", "open_test") if options[name]]
        if others:
            faults.append(f"--noise measures the spread over seeds and judges nothing; remove {' and '.join(others)}")
        if contenders > 1:
            faults.append(f"--noise takes a base and at most one contender, got {contenders}")
    elif not contenders:
        noise = f"`nanogpt-kit compare --noise {arms[0]} --seeds 5` measures the spread of {arms[0]} over seeds"
        faults.append(f"expected a contender besides {arms[0]}, as in {EXAMPLE}; {noise}")
    if options["tokens_saved"] and contenders > 1:
        faults.append(f"--tokens-saved takes one contender, got {contenders}")
    if options["target"] is not None and not math.isfinite(options["target"]):
        faults.append(f"--target should be a finite number, got {options['target']}")
    if options["again"] and options["seeds"] is None:
        faults.append("--again trains every run again, so it requires --seeds")
    if faults:
        raise KitError(*(Fault(fault, location="command line") for fault in faults))


def read_question(
    words: Sequence[str], metric: str, direction: Literal["minimize", "maximize"], text: str, options: CompareOptions
) -> Question:
    """Reads the arms, and prints what each argument was taken as."""
    from nanogpt_kit.comparison.arms import read_arms
    from nanogpt_kit.comparison.question import Question, reason_to_ask

    named = read_arms(words, options.trust_code, options.nproc)
    for one in named:
        print_notes(one.notes)
        print_lines(one.meaning, err=True)
    arms = tuple(one.arm for one in named)
    return Question("noise" if options.noise else "compare", arms, metric, direction, reason_to_ask(text, arms))


def print_preview(question: Question, options: CompareOptions, as_json: bool) -> None:
    """Prints the runs to be trained and what they cost; of --tokens-saved as if the base were the better arm."""
    from nanogpt_kit.comparison.finished import FinishedRuns
    from nanogpt_kit.core.experiment import Experiment
    from nanogpt_kit.sweep.comparison_preview import estimate_comparison
    from nanogpt_kit.sweep.question_preview import QuestionPreview
    from nanogpt_kit.sweep.smaller_budgets import SmallerBudgets

    seeds = options.seeds_of(question) if options.seeds else FinishedRuns.find(question).seeds
    base = question.base
    file = base.runs[-1].experiment if base.runs else base.label
    load_base = functools.partial(Experiment.load, file, (), options.trust_code, options.nproc)
    plain = {name: value for name, value in options.of_runs().items() if name != "command"}
    estimate = estimate_comparison(question, seeds, load_base, **plain)
    further = SmallerBudgets.of(question, base, seeds, options.again) if options.tokens_saved else None
    shown = QuestionPreview(question, seeds, estimate)
    if as_json:
        print_json({**shown.record(), **({"tokens_saved": asdict(further)} if further else {})})
        return
    print_lines("\n".join([*shown.lines(), *([further.line()] if further else [])]))
