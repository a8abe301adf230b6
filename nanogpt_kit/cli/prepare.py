"""`nanogpt-kit prepare EXPERIMENT`: prepare the data without training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nanogpt_kit.cli.experiment import EXPERIMENT, OVERRIDES, TRUST, load_experiment
from nanogpt_kit.cli.json_output import json_option, print_json
from nanogpt_kit.cli.output import continue_without_reader
from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.system.torch_libraries import load_torch_libraries

if TYPE_CHECKING:
    from nanogpt_kit.data.manifest import SourceRecord
    from nanogpt_kit.data.prepared_data import PreparedData


@click.command()
@EXPERIMENT
@OVERRIDES
@click.option("--stats", is_flag=True, help="Print counts of documents, bytes and tokens per split.")
@click.option("--verify", is_flag=True, help="Read every file again and compare it with its recorded hash.")
@click.option("--workers", type=click.IntRange(1), help="Processes that tokenize.  [default: one per core]")
@json_option("Print a JSON object with the folder and the counts of each split.")
@TRUST
def prepare(
    experiment: str,
    overrides: tuple[str, ...],
    stats: bool,
    verify: bool,
    workers: int | None,
    as_json: bool,
    trust_code: bool,
) -> None:
    """Tokenize the text of EXPERIMENT and write it to disk, unless that is done already.

    A preparation that was interrupted continues where it stopped.
    """
    continue_without_reader()
    load_torch_libraries()  # components import torch
    chosen = load_experiment(experiment, overrides, trust_code)
    from nanogpt_kit.cli.proportions_text import print_proportions, proportions_record
    from nanogpt_kit.data import prepare as preparation
    from nanogpt_kit.data.source_check import check_source

    check_source(chosen)
    prepared = preparation.prepare(chosen, workers, verify=not verify)
    if verify:
        verify_files(prepared)
    if stats:
        print_stats(prepared)
        print_source_stats(prepared)
    print_proportions(chosen)
    for name, bits in prepared.references.items():
        click.echo(f"{name} needs {bits:.3f} bits per byte on val")
    click.echo(str(prepared.path))
    if as_json:
        sources = {"sources": proportions} if (proportions := proportions_record(chosen)) else {}
        print_json({**prepared_record(prepared, verify), **sources})


def prepared_record(prepared: PreparedData, is_verified: bool) -> dict[str, Any]:
    """The folder and the contents of prepared data, for programs."""
    return {
        "folder": str(prepared.path),
        "vocab_size": prepared.encoder.vocab_size,
        "dtype": prepared.manifest.dtype,
        "splits": {name: split.as_json() for name, split in prepared.splits.items()},
        "verified": is_verified,
    }


COUNT_LABELS = {  # counts of a split, as the manifest names them
    "documents": "documents",
    "empty": "empty documents, left out",
    "duplicates": "documents that a smaller split also has",
    "bytes": "bytes of text",
    "tokens": "tokens",
    "longest": "tokens of the longest document",
    "unknown": "unknown characters",
}


def verify_files(prepared: PreparedData) -> None:
    """Reads each file completely and prints a line about it. Raises KitError with those that are damaged."""
    from nanogpt_kit.data.manifest import MANIFEST, damaged_data_error

    faults: list[Fault] = []
    click.echo(f"{MANIFEST:24}as recorded")
    for file in prepared.files:
        damage = file.find_damage(reread=True)
        click.echo(f"{file.path.name:24}{'damaged' if damage else 'as recorded'}, {file.size:,} bytes")
        faults += damaged_data_error(prepared.path, file.path.name, damage).faults if damage else ()
    if faults:
        raise KitError(*faults)


def print_stats(prepared: PreparedData) -> None:
    """Prints a table with a column for each split and a row for each count."""
    splits = prepared.splits
    rows = [["", *splits]]
    for key, label in COUNT_LABELS.items():
        rows.append([label, *(f"{getattr(split, key):,}" for split in splits.values())])
    if any(split.counted for split in splits.values()):
        counted = [split.counted.tokens if split.counted else split.tokens for split in splits.values()]
        rows.append(["tokens that count", *map("{:,}".format, counted)])
    rows.append(["bytes per token", *(f"{split.bytes / max(1, split.tokens):.3f}" for split in splits.values())])
    print_columns(rows)
    click.echo(f"vocabulary of {prepared.encoder.vocab_size:,} tokens, stored as {prepared.manifest.dtype}")


def print_source_stats(prepared: PreparedData) -> None:
    """The same for each source of the dataset: a table of tokens, with a row for each."""
    if prepared.sources:
        rows = [["tokens of", *prepared.splits]]
        for index, name in enumerate(prepared.sources):
            rows.append([name, *(source_tokens(split.sources[index]) for split in prepared.splits.values())])
        print_columns(rows)


def source_tokens(source: SourceRecord) -> str:
    """Such as "32,842, 5,494 count": the tokens of a source, and those of them that count where not all do."""
    counted = "" if source.counted_tokens in (None, source.tokens) else f", {source.counted_tokens:,} count"
    return f"{source.tokens:,}{counted}"


def print_columns(rows: list[list[str]]) -> None:
    """Prints rows of a label and numbers, aligned."""
    label_width, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    for label, *cells in rows:
        numbers = (f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        click.echo(f"{label:{label_width}}{''.join(numbers)}")
