"""What the verbs that take an experiment file share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from nanogpt_kit.core.experiment import Experiment

EXPERIMENT = click.argument("experiment", metavar="EXPERIMENT.toml")
TRUST = click.option("--trust-code", is_flag=True, help="Execute component files that came with a run from elsewhere.")
STEP = click.option("--step", type=click.IntRange(0), help="The checkpoint of this step.  [default: the newest]")
WEIGHTS = click.option(
    "--weights",
    metavar="CALLBACK",
    help="Weights that a callback keeps, as ema does.  [default: those that were trained]",
)
OVERRIDES = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")


def load(path: str, overrides: tuple[str, ...], trust_code: bool = False) -> Experiment:
    """The experiment; says on stderr which options a change of component dropped."""
    from nanogpt_kit.core.experiment import Experiment
    from nanogpt_kit.core.layers import Layers
    from nanogpt_kit.runs import trust

    folder = Path(path).parent
    layers = Layers.load(Path(path), overrides)
    if trust.is_run(folder) and not trust_code:
        trust.check(layers, folder)
    experiment = Experiment.of(layers, folder)
    for note in experiment.notes:
        click.echo(f"note: {note}", err=True)
    return experiment


def take_back_resume(resume: str | None, overrides: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
    """`--resume optimizer.lr=1` is a bare --resume and an override: a run's name has no "=" in it."""
    if resume and "=" in resume and not Path(resume).exists():
        return "", (resume, *overrides)
    return resume, overrides
