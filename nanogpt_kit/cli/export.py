"""`nanogpt-kit export RUN FOLDER`: a run's weights for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from nanogpt_kit.cli.experiment import STEP, TRUST, WEIGHTS
from nanogpt_kit.cli.paths import expand
from nanogpt_kit.interop import FORMATS


@click.command()
@click.argument("run", callback=expand)
@click.argument("folder", type=click.Path(path_type=Path), callback=expand)
@click.option(
    "--format",
    "format_",
    type=click.Choice(FORMATS),
    default="huggingface",
    show_default=True,
    help="For transformers' GPT2LMHeadModel; for nanoGPT's sample.py; or as it is.",
)
@STEP
@WEIGHTS
@TRUST
def export(run: str, folder: Path, format_: str, step: int | None, weights: str | None, trust_code: bool) -> None:
    """Write the weights of RUN, a run folder or the name of an experiment, into FOLDER, which is made."""
    from nanogpt_kit.generate.load import load_run
    from nanogpt_kit.interop import bring

    loaded = load_run(run, trust_code=trust_code, weights=weights, step=step)
    bring.export(loaded.experiment, loaded.model, loaded.encoder, format_, folder)
    for path in sorted(folder.iterdir()):
        click.echo(str(path))
    if (folder / "meta.pkl").exists():
        click.echo(f"nanoGPT's sample.py looks for meta.pkl in its data/{loaded.experiment.name}/", err=True)
