"""What the verbs that take an experiment file share."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nanogpt_kit.cli.paths import expand
from nanogpt_kit.core.errors import KitError

if TYPE_CHECKING:
    from nanogpt_kit.core.experiment import Experiment

EXPERIMENT = click.argument("experiment", callback=expand, metavar="EXPERIMENT.toml")
TRUST = click.option("--trust-code", is_flag=True, help="Execute component files that never ran here.")
STEP = click.option("--step", type=click.IntRange(0), help="The checkpoint of this step.  [default: the newest]")
WEIGHTS = click.option(
    "--weights",
    metavar="CALLBACK",
    help="Weights that a callback keeps, as ema does.  [default: those that were trained]",
)
OVERRIDES = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")


def load(path: str, overrides: tuple[str, ...], trust_code: bool = False, nproc: int = 1) -> Experiment:
    """As `read`; prints on stderr which options a change of component dropped."""
    experiment = read(path, overrides, trust_code, nproc)
    if not int(os.environ.get("RANK", "0")):  # the other processes of a run would print the same
        for note in experiment.notes:
            click.echo(f"note: {note}", err=True)
    return experiment


def read(path: str, overrides: tuple[str, ...], trust_code: bool = False, nproc: int = 1) -> Experiment:
    """The experiment. For `nproc` processes [parallel] is ddp unless it is given: one process cannot be meant."""
    from nanogpt_kit.core.experiment import Experiment

    return Experiment.load(path, overrides, trust_code, nproc)


def may_execute(path: Path, size: int) -> bool:
    """Asks the user at the terminal; False where input or errors are not one, and in a rank of several."""
    if "RANK" in os.environ or not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    name = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(path.absolute()))
    click.echo(f"component file {name} ({size:,} bytes) never ran here; it can do all that you can", err=True)
    return click.confirm("execute it?", err=True)


def check_overrides(overrides: Sequence[str], allowed: Sequence[str], runs: Sequence[str]) -> None:
    """Raises KitError for what would change a trained model. One in another program's format may need a tokenizer."""
    for text in overrides:
        key = text.split("=")[0]
        kind = key.split(".")[0]
        if key in allowed or kind in allowed:
            continue
        if kind == "tokenizer":
            from nanogpt_kit.generate.load import is_foreign_model

            if all(is_foreign_model(Path(run)) for run in runs):
                continue
        only = f"{', '.join(allowed[:-1])} and {allowed[-1]}"
        raise KitError(f"command line: {text!r}: a trained model is as it is; only {only} can be set")
