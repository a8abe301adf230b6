"""`nanogpt-kit prepare EXP`: only the data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nanogpt_kit.cli.experiment import EXPERIMENT, OVERRIDES, TRUST, load
from nanogpt_kit.cli.output import continue_unread
from nanogpt_kit.core.errors import Fault, KitError

if TYPE_CHECKING:
    from nanogpt_kit.data.prepared_data import PreparedData


@click.command()
@EXPERIMENT
@OVERRIDES
@click.option("--stats", is_flag=True, help="What the data holds, split by split.")
@click.option("--verify", is_flag=True, help="Read every file again and compare it with what was recorded.")
@click.option("--workers", type=click.IntRange(1), help="Processes that tokenize.  [default: one a core]")
@TRUST
def prepare(
    experiment: str, overrides: tuple[str, ...], stats: bool, verify: bool, workers: int | None, trust_code: bool
) -> None:
    """Turn EXPERIMENT's text into tokens on disk, where that has not been done yet.

    A preparation that was stopped goes on where it was.
    """
    continue_unread()
    chosen = load(experiment, overrides, trust_code)
    from nanogpt_kit.data import prepare as preparation

    prepared = preparation.prepare(chosen, workers, verify=not verify)
    if verify:
        show_verified(prepared)
    if stats:
        show_stats(prepared)
    for name, bits in prepared.references.items():
        click.echo(f"{name} needs {bits:.3f} bits a byte on val")
    click.echo(str(prepared.path))


STATS = {  # of a split, in words
    "documents": "documents",
    "empty": "empty ones, left out",
    "duplicates": "documents that a smaller split has, too",
    "bytes": "bytes of text",
    "tokens": "tokens",
    "longest": "tokens of the longest document",
    "unknown": "unknown characters",
}


def show_verified(prepared: PreparedData) -> None:
    """A line for each file, read from its first byte to its last. Raises KitError with those that are damaged."""
    from nanogpt_kit.data.manifest import MANIFEST, damaged_data_error

    faults: list[Fault] = []
    click.echo(f"{MANIFEST:24}as recorded")
    for file in prepared.files:
        damage = file.find_damage(reread=True)
        click.echo(f"{file.path.name:24}{'damaged_data_error' if damage else 'as recorded'}, {file.size:,} bytes")
        faults += damaged_data_error(prepared.path, file.path.name, damage).faults if damage else ()
    if faults:
        raise KitError(*faults)


def show_stats(prepared: PreparedData) -> None:
    """A table: a column for each split, a row for each count."""
    splits = prepared.splits
    click.echo(f"{'':42}" + "".join(f"{split:>18}" for split in splits))
    for key, words in STATS.items():
        shown = [f"{getattr(split, key):,}" for split in splits.values()]
        click.echo(f"{words:42}" + "".join(f"{value:>18}" for value in shown))
    per_token = [split.bytes / max(1, split.tokens) for split in splits.values()]
    click.echo(f"{'bytes a token':42}" + "".join(f"{value:>18.3f}" for value in per_token))
    click.echo(f"a vocabulary of {prepared.encoder.vocab_size:,} tokens, kept as {prepared.manifest.dtype}")
