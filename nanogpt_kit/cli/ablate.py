"""`nanogpt-kit ablate EXPERIMENT`: which changes of an experiment help? Each is compared with the experiment."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from nanogpt_kit.cli.experiment import EXPERIMENT, OVERRIDES, TRUST, load_experiment
from nanogpt_kit.cli.json_output import json_option, print_json
from nanogpt_kit.cli.lines import print_lines
from nanogpt_kit.cli.output import continue_without_reader
from nanogpt_kit.cli.override_candidates import vary_candidates
from nanogpt_kit.cli.slow_note import note_if_slow
from nanogpt_kit.core.override_text import override_text
from nanogpt_kit.runs.secrets import hide_in_command

if TYPE_CHECKING:
    from nanogpt_kit.comparison.question import Question
    from nanogpt_kit.core.experiment import Experiment


@click.command()
@EXPERIMENT
@OVERRIDES
@click.option(
    "--vary",
    multiple=True,
    metavar="KEY=V1,V2,...",
    shell_complete=vary_candidates,
    help="Values of an option, each of them one change; may be repeated. Replaces the key in [ablate.vary].",
)
@click.option("--factorial", is_flag=True, help="Compare every combination of the changes, too, and how they interact.")
@click.option(
    "--match",
    type=click.Choice(["parameters", "flops"]),
    help="Replaces ablate.match: adjust each arm to as many parameters, or FLOPs per token, as the base.",
)
@click.option("--match-with", metavar="KEY", help="Replaces ablate.match_with: the whole number that is adjusted.")
@click.option("--seeds", type=click.IntRange(1), help="Replaces ablate.seeds: runs of each arm.")
@click.option("--metric", metavar="METRIC", help="Replaces ablate.metric: the metric that decides.")
@click.option("--workers", type=click.IntRange(1), help="Replaces ablate.workers: parallel runs on this machine.")
@click.option(
    "--storage",
    metavar="URL",
    envvar="NANOGPT_KIT_STORAGE",
    help="Replaces ablate.storage, to keep a password out of a file.",
)
@click.option("--nproc", type=click.IntRange(1), default=1, help="Processes of each run, as in `run --nproc`.")
@click.option("--again", is_flag=True, help="Train every run again, also where a finished one has the answer.")
@click.option("--preview", is_flag=True, help="Show arms, runs and an estimate of the time, and exit.")
@json_option("Print the comparison, or the preview, as a JSON object.")
@TRUST
def ablate(
    experiment: str,
    overrides: tuple[str, ...],
    vary: tuple[str, ...],
    nproc: int,
    again: bool,
    preview: bool,
    as_json: bool,
    trust_code: bool,
    **options: Any,
) -> None:
    """Compare changes of EXPERIMENT with it over the same seeds: each is better, worse or undecided.

    The changes are those of its [ablate] table and of --vary. The same command continues an ablation that was stopped
    or killed; runs that are finished already are not trained again.

    The exit code is 0 where a change is better, else 3 where one is undecided, else 4.
    """
    more = [f"ablate.{name}={override_text(value)}" for name, value in options.items() if value]
    base = load_experiment(experiment, (*overrides, *more), trust_code, nproc)
    with note_if_slow("checking the arms"):
        from nanogpt_kit.sweep.ablation import ablation_options, ablation_question, ablation_seeds

        question = ablation_question(base, vary, nproc)
    seeds = ablation_seeds(base)
    table = ablation_options(base)
    settings: dict[str, Any] = {"again": again, "workers": table.workers, "storage": table.storage, "nproc": nproc}
    if preview:
        from nanogpt_kit.core.experiment import Experiment

        load_again = functools.partial(Experiment.load, experiment, (*overrides, *more), trust_code, nproc)
        print_preview(question, seeds, load_again, settings, as_json)
        return
    import rich

    from nanogpt_kit.comparison.ledger import record_path, report_command
    from nanogpt_kit.comparison.text import comparison_json, comparison_lines, exit_code
    from nanogpt_kit.sweep.comparison import run_comparison

    continue_without_reader()
    rich.reconfigure(stderr=True)
    comparison = run_comparison(question, seeds, command=hide_in_command(["nanogpt-kit", *sys.argv[1:]]), **settings)
    print_lines(f"record: {record_path(comparison)}", err=True)
    print_lines(f"report: {report_command(comparison)}", err=True)
    if as_json:
        print_json(comparison_json(comparison))
    else:
        print_lines("\n".join(comparison_lines(comparison)))
    click.get_current_context().exit(exit_code(comparison))


def print_preview(
    question: Question, seeds: range, load_again: Callable[[], Experiment], settings: dict[str, Any], as_json: bool
) -> None:
    from nanogpt_kit.sweep.comparison_preview import estimate_comparison
    from nanogpt_kit.sweep.question_preview import QuestionPreview

    found = QuestionPreview(question, seeds, estimate_comparison(question, seeds, load_again, **settings))
    if as_json:
        print_json(found.record())
        return
    for line in found.lines():
        print_lines(line)
