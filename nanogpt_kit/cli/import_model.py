"""`nanogpt-kit import SOURCE`: a model from elsewhere becomes a run."""

from __future__ import annotations

from pathlib import Path

import click

from nanogpt_kit.cli.paths import expand
from nanogpt_kit.core.errors import KitError


@click.command("import")
@click.argument("source", callback=expand)
@click.argument("words", nargs=-1, metavar="[NAME] [KEY=VALUE]...")
@click.option(
    "--meta", type=click.Path(path_type=Path), callback=expand, help="The meta.pkl of nanoGPT's character-level data."
)
def import_model(source: str, words: tuple[str, ...], meta: Path | None) -> None:
    """Make a run of SOURCE: gpt2, gpt2-medium, gpt2-large, gpt2-xl, a folder that transformers saved, or a ckpt.pt.

    NAME is what `sample` and model.init_from call it; left out, the source's own. KEY=VALUE sets options of its
    experiment, as in tokenizer.use=byte.
    """
    names = [word for word in words if "=" not in word]
    if len(names) > 1:
        raise KitError(f"one name is enough, got {', '.join(names)}")
    from nanogpt_kit.interop.importing import import_run

    folder = import_run(source, names[0] if names else "", [word for word in words if "=" in word], meta)
    click.echo(str(folder))
