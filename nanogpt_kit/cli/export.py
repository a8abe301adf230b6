"""`nanogpt-kit export RUN FOLDER`: a run's weights for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from nanogpt_kit.cli.candidates import format_candidates, run_candidates
from nanogpt_kit.cli.experiment import STEP, TRUST, WEIGHTS
from nanogpt_kit.cli.json_output import json_option, print_json
from nanogpt_kit.cli.lines import print_lines
from nanogpt_kit.cli.override_candidates import format_option_candidates
from nanogpt_kit.cli.paths import expand_path_argument
from nanogpt_kit.core.errors import KitError


@click.command()
@click.argument("run", callback=expand_path_argument, shell_complete=run_candidates)
@click.argument("folder", type=click.Path(path_type=Path), callback=expand_path_argument)
@click.argument("options", nargs=-1, metavar="[format.KEY=VALUE]...", shell_complete=format_option_candidates)
@click.option(
    "--format",
    "format_",
    metavar="NAME",
    default="huggingface",
    show_default=True,
    shell_complete=format_candidates,
    help="huggingface for transformers' GPT2LMHeadModel, nanogpt for its sample.py, safetensors for this kit; "
    "another that is installed; or a component file.",
)
@STEP
@WEIGHTS
@json_option()
@TRUST
def export(
    run: str,
    folder: Path,
    options: tuple[str, ...],
    format_: str,
    step: int | None,
    weights: str | None,
    as_json: bool,
    trust_code: bool,
) -> None:
    """Write the model of RUN into a new FOLDER.

    RUN is a run folder, a run id, or an experiment's name for its newest finished run; NAME@best is its run with the
    lowest validation loss, and RUN@STEP an earlier checkpoint. format.KEY=VALUE sets options of the format, as in
    format.dtype=bf16.
    """
    from nanogpt_kit.generate.load import load_model
    from nanogpt_kit.generate.source import find_model
    from nanogpt_kit.interop.exporting import export_model
    from nanogpt_kit.interop.formats import find_format, is_format_option

    for word in options:
        if not is_format_option(word):
            is_option = "=" in word and "." not in word.partition("=")[0]
            remedy = f"write format.{word}" if is_option else "other options cannot be set"
            raise KitError(f"command line: expected format.KEY=VALUE, got {word!r}; {remedy}")
    find_format(format_, options)  # mistakes are found before the model is loaded
    source = find_model(run, step, weights)
    print_lines(source.described(), err=True)
    loaded = load_model(source, trust_code=trust_code, weights=weights)
    export_model(loaded.experiment, loaded.model, loaded.encoder, format_, folder, options)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        click.echo(str(path))
    if as_json:
        print_json(
            {
                "folder": str(folder),
                "format": format_,
                "files": [path.relative_to(folder).as_posix() for path in files],
                "experiment": loaded.experiment.name,
                "model": str(source.path),
            }
        )
