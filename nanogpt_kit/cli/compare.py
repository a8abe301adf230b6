"""`nanogpt-kit compare BASE CONTENDER...`: is a contender better than the base, over the same seeds?"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import click

from nanogpt_kit.cli.experiment import TRUST, print_notes, without_garbage_collection
from nanogpt_kit.cli.json_output import json_option, print_json
from nanogpt_kit.cli.lines import print_lines
from nanogpt_kit.cli.output import continue_without_reader
from nanogpt_kit.cli.override_candidates import arm_candidates
from nanogpt_kit.core.errors import DONE, Fault, KitError
from nanogpt_kit.runs.secrets import hide_in_command

if TYPE_CHECKING:
    from nanogpt_kit.compare.question import Question
    from nanogpt_kit.compare.record import Comparison


@dataclass(frozen=True)
class CompareOptions:
    """The options of the verb, without those of the question."""

    seeds: int | None
    target: float | None
    tokens_saved: bool
    noise: bool
    again: bool
    workers: int
    storage: str
    nproc: int
    open_test: bool

    def check(self, arguments: Sequence[str]) -> None:
        """Raises KitError with every fault in what was given together."""
        contenders = len(arguments) - 1
        faults = []
        if self.noise:
            names = {"--target": self.target, "--tokens-saved": self.tokens_saved, "--open-test": self.open_test}
            faults += [f"--noise measures the spread over seeds; remove {name}" for name in names if names[name]]
            if contenders > 1:
                faults.append(f"--noise takes an experiment and at most one contender, got {contenders}")
        elif not contenders:
            faults.append(
                "a comparison has a base and a contender, as in: nanogpt-kit compare quickstart model.mlp=swiglu "
                f"--seeds 3; `nanogpt-kit compare --noise {arguments[0]} --seeds 5` measures the spread over seeds"
            )
        if self.tokens_saved and contenders > 1:
            faults.append(f"--tokens-saved compares the base with one contender, got {contenders}")
        if self.again and not self.seeds:
            faults.append("--again runs each seed anew, so it requires --seeds")
        if faults:
            raise KitError(*(Fault(fault, location="command line") for fault in faults))


@click.command()
@click.argument("arguments", nargs=-1, required=True, metavar="BASE [CONTENDER]...", shell_complete=arm_candidates)
@click.option(
    "--seeds",
    type=click.IntRange(1),
    help="Compare this many seeds, from train.seed of the base, and train what is missing.  [default: finished runs]",
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
@click.option("--tokens-saved", is_flag=True, help="Also express the difference in tokens; costs further runs.")
@click.option("--noise", is_flag=True, help="Only measure the spread over seeds, and the smallest visible difference.")
@click.option("--again", is_flag=True, help="Train every seed anew, also where a finished run has the answer.")
@click.option("--workers", type=click.IntRange(1), default=1, help="Parallel runs on this machine.")
@click.option(
    "--storage",
    metavar="URL",
    default="journal",
    envvar="NANOGPT_KIT_STORAGE",
    help="Storage of the runs to make, as sweep.storage.",
)
@click.option("--nproc", type=click.IntRange(1), default=1, help="Processes of each run, as in `run --nproc`.")
@click.option("--text", default="", metavar="TEXT", help="Reason for the comparison, for the ledger.")
@click.option("--open-test", is_flag=True, help="Also evaluate on the test split; possible once for each test split.")
@click.option("--preview", is_flag=True, help="Show the runs to make and their cost, and exit.")
@json_option()
@TRUST
def compare(
    arguments: tuple[str, ...],
    metric: str,
    direction: Literal["minimize", "maximize"],
    text: str,
    preview: bool,
    as_json: bool,
    trust_code: bool,
    **others: Any,
) -> None:
    """Compare each CONTENDER with BASE over the same seeds: better, worse or undecided.

    BASE is an experiment (a file or a name) or runs: a run, a folder of runs, a trial of a sweep. A CONTENDER is one of
    these, or a change of BASE in one word, as in model.mlp=swiglu or 'model.mlp=swiglu optimizer.lr=2e-3'.

    Without --seeds only finished runs are compared. With --seeds N, runs that are missing are trained; finished ones
    are not trained again. Decide on N before you look: seeds that are added later widen the interval.

    The exit code is 0 for better, 3 for undecided, 4 for worse; with several contenders that of the best of them.
    """
    options = CompareOptions(**others)
    options.check(arguments)
    continue_without_reader()
    kind: Literal["noise", "compare"] = "noise" if options.noise else "compare"
    question = read_question(arguments, kind, text, trust_code, options.nproc)
    question = replace(question, metric=metric, direction=direction)
    command = hide_in_command(["nanogpt-kit", *sys.argv[1:]])
