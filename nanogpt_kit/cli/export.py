"""`nanogpt-kit export RUN FOLDER`: a run's weights for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from nanogpt_kit.cli.candidates import run_candidates
from nanogpt_kit.cli.experiment import STEP, TRUST, WEIGHTS
from nanogpt_kit.cli.json_output import json_option, print_json
from nanogpt_kit.cli.lines import print_lines
from nanogpt_kit.cli.paths import expand_path_argument
from nanogpt_kit.interop import FORMATS


@click.command()
@click.argument("run", callback=expand_path_argument, shell_complete=run_candidates)
@click.argument("folder", type=click.Path(path_type=Path), callback=expand_path_argument)
@click.option(
    "--format",
    "format_",
    type=click.Choice(FORMATS),
    default="huggingface",
    show_default=True,
    help="For transformers' GPT2LMHeadModel, for nanoGPT's sample.py, or for nanogpt-kit.",
)
@STEP
@WEIGHTS
@json_option()
@TRUST
def export(
    run: str, folder: Path, format_: str, step: int | None, weights: str | None, as_json: bool, trust_code: bool
) -> None:
    """Write the model of RUN into a new FOLDER.

    RUN is a run folder, a run id, or an experiment's name for its newest finished run; NAME@best is its run with the
    lowest validation loss, and RUN@STEP an earlier checkpoint.
    """
    from nanogpt_kit.generate.load import load_model
    from nanogpt_kit.generate.source import find_model
    from nanogpt_kit.interop.exporting import export_model

    source = find_model(run, step, weights)
    print_lines(source.described(), err=True)
    loaded = load_model(source, trust_code=trust_code, weights=weights)
    export_model(loaded.experiment, loaded.model, loaded.encoder, format_, folder)
    files = sorted(folder.iterdir())
    for path in files:
        click.echo(str(path))
    if (folder / "meta.pkl").exists():
        click.echo(f"nanoGPT's sample.py expects meta.pkl in its data/{loaded.experiment.name}/", err=True)
    if as_json:
        names = [path.name for path in files]
        print_json(
            {
                "folder": str(folder),
                "format": format_,
                "files": names,
                "experiment": loaded.experiment.name,
                "model": str(source.path),
            }
        )
