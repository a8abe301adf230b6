"""`nanogpt-kit runs ledger`: every comparison that was made, with its result."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from nanogpt_kit.cli.json_output import json_option, print_json
from nanogpt_kit.cli.lines import print_lines
from nanogpt_kit.cli.output import is_terminal
from nanogpt_kit.cli.text_table import Column, table_lines
from nanogpt_kit.core.errors import Fault, KitError, did_you_mean, printable
from nanogpt_kit.core.overrides import COMMAND_LINE
from nanogpt_kit.system.terminal import terminal_width

if TYPE_CHECKING:
    from nanogpt_kit.comparison.record import Comparison

VERDICTS = ("better", "worse", "undecided")
MAY_BE_CUT = {"base": 8, "change": 15}  # columns of the terminal that a text keeps


def ledger_candidates(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Verdicts, and the experiments that were compared."""
    from nanogpt_kit.comparison.ledger import read_comparisons

    names = sorted({name for comparison in read_comparisons() for name in experiment_names(comparison)})
    return [CompletionItem(word) for word in (*VERDICTS, *names) if word.startswith(incomplete)]


@click.command("ledger")
@click.argument("filters", nargs=-1, metavar="[FILTER]...", shell_complete=ledger_candidates)
@json_option("Print a JSON list of whole records.")
def list_comparisons(filters: tuple[str, ...], as_json: bool) -> None:
    """List every comparison, ablation and measurement of noise, the newest last.

    There is a line for each contender: its change, the count of pairs, the difference from the base with its interval,
    the verdict, and the time that was trained for the whole comparison. A FILTER is a verdict (better, worse,
    undecided) or the name of an experiment.
    """
    from nanogpt_kit.comparison.ledger import read_comparisons

    comparisons = read_comparisons()
    check_words(filters, comparisons)
    names, verdicts = {*filters} - {*VERDICTS}, {*filters} & {*VERDICTS}
    chosen = [
        comparison
        for comparison in comparisons
        if names <= experiment_names(comparison)
        and (not verdicts or verdicts & {result.verdict for result in comparison.results})
    ]
    if as_json:
        from nanogpt_kit.comparison.text import comparison_json

        print_json([comparison_json(comparison) for comparison in chosen])
    elif chosen:
        print_rows(chosen, verdicts)
    else:
        print_lines("no comparison matches" if comparisons else "there are no comparisons yet", err=True)


def print_rows(comparisons: list[Comparison], verdicts: set[str]) -> None:
    """A table, cut to the width of a terminal."""
    from nanogpt_kit.comparison.ledger_rows import LedgerRow, ledger_rows

    columns = zip(*ledger_rows(comparisons, verdicts), strict=True)
    width = terminal_width(sys.stdout) if is_terminal(sys.stdout) else None
    lines, left_out = table_lines(
        [
            Column(name, texts, "right" if name in MAY_BE_CUT else "", MAY_BE_CUT.get(name, 0))
            for name, texts in zip(LedgerRow._fields, columns, strict=True)
        ],
        width,
    )
    click.echo(printable("\n".join(lines)))
    if left_out:
        print_lines(f"no space for: {', '.join(left_out)}; a wider terminal, a pipe or --json shows all", err=True)


def check_words(filters: tuple[str, ...], comparisons: list[Comparison]) -> None:
    """Raises KitError for each word that is neither a verdict nor the name of an experiment in the ledger."""
    names = {*VERDICTS, *(name for comparison in comparisons for name in experiment_names(comparison))}
    reason = "is neither a verdict nor an experiment in the ledger"
    texts = [f"{word!r} {reason}{did_you_mean(word, names)}" for word in filters if word not in names]
    if texts:
        raise KitError(*(Fault(text, "FILTER", COMMAND_LINE) for text in texts))


def experiment_names(comparison: Comparison) -> set[str]:
    return {arm.experiment for arm in comparison.arms}
