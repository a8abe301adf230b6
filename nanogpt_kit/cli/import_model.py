"""`nanogpt-kit import SOURCE`: a run from a model of another program."""

from __future__ import annotations

import click

from nanogpt_kit.cli.candidates import format_candidates, model_source_candidates
from nanogpt_kit.cli.json_output import json_option, print_json
from nanogpt_kit.cli.override_candidates import override_candidates
from nanogpt_kit.cli.paths import expand_path_argument
from nanogpt_kit.core.errors import KitError


@click.command("import")
@click.argument("source", callback=expand_path_argument, shell_complete=model_source_candidates)
@click.argument("name_and_overrides", nargs=-1, metavar="[NAME] [KEY=VALUE]...", shell_complete=override_candidates)
@click.option(
    "--format",
    "format_",
    metavar="NAME",
    shell_complete=format_candidates,
    help="Format of SOURCE, or a component file.  [default: the format that detects SOURCE]",
)
@json_option()
def import_model(source: str, name_and_overrides: tuple[str, ...], format_: str | None, as_json: bool) -> None:
    """Make a run from SOURCE: a model in a format, such as a folder saved by transformers or a ckpt.pt, or gpt2,
    gpt2-medium, gpt2-large or gpt2-xl.

    NAME is the experiment's name, for `sample` and model.init_from; the default is the name of the source. KEY=VALUE
    sets options of the experiment, as in tokenizer.use=byte, and of the format, as in format.meta=meta.pkl.
    """
    names = [word for word in name_and_overrides if "=" not in word]
    if len(names) > 1:
        raise KitError(f"expected a single name, got {', '.join(names)}")
    from nanogpt_kit.interop.importing import import_run

    overrides = [word for word in name_and_overrides if "=" in word]
    folder = import_run(source, names[0] if names else "", overrides, format_)
    click.echo(str(folder))
    if as_json:
        print_json({"folder": str(folder), "experiment": folder.path.parent.name, "source": source})
