"""`nanogpt-kit runs list`: the runs below the runs folder, filtered and sorted by any option, metric or field."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from nanogpt_kit.cli.candidates import columns_candidates, filter_candidates, run_key_candidates
from nanogpt_kit.cli.json_output import json_option, print_json
from nanogpt_kit.cli.output import is_terminal
from nanogpt_kit.cli.text_table import Column, table_lines
from nanogpt_kit.core.errors import printable
from nanogpt_kit.system.garbage_collection import without_garbage_collection
from nanogpt_kit.system.terminal import terminal_width

if TYPE_CHECKING:
    from nanogpt_kit.runs.indexed_run import IndexedRun

FIRST, LAST = ("run", "state", "step", "val/loss", "seed"), ("note",)  # default columns, around the options
MAX_OPTIONS = 4  # default columns of options that differ
SECTIONS = (
    "model",
    "optimizer",
    "schedule",
    "train",
    "tokenizer",
    "dataset",
    "init",
    "order",
)  # the first is shown first
NOT_SHOWN = ("train.seed", "train.threads", "train.device")  # options that differ without being a choice
TEXTS = ("note", "reason")  # columns that may be cut
MIN_TEXT, MIN_RUN = 12, 32  # characters of a column that is cut; a run id has at most 36


@click.command("list", epilog="Example: nanogpt-kit runs list quickstart 'val/loss<2' --sort val/loss")
@click.argument("filters", nargs=-1, metavar="[FILTER]...", shell_complete=filter_candidates)
@click.option(
    "--sort", "sort_key", metavar="KEY", shell_complete=run_key_candidates, help="Key to sort by.  [default: started]"
)
@click.option("--reverse", is_flag=True, help="Reverse the order.")
@click.option(
    "--columns", metavar="KEY,...", shell_complete=columns_candidates, help="Columns, as in run,val/loss,optimizer.lr."
)
@click.option(
    "--limit", type=click.IntRange(1), metavar="N", help="At most N runs: the first after --sort, else the newest."
)
@json_option("Print a JSON list: all of each run, or its --columns.")
@without_garbage_collection()
def list_runs(
    filters: tuple[str, ...],
    sort_key: str | None,
    reverse: bool,
    columns: str | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """List the runs that match every FILTER, the newest last.

    A FILTER compares a field, an option or a metric of the last evaluation, in quotes for the shell: 'val/loss<2',
    'optimizer.lr>=1e-3', model.mlp=swiglu, state=finished, 'started>2026-11-01', 'dataset.source=*.txt'. A name alone
    is that of an experiment, or of a folder of runs. Runs without the value do not match.
    """
    from nanogpt_kit.cli.run_keys import check_key
    from nanogpt_kit.runs.filters import key_of, select_runs
    from nanogpt_kit.runs.folder import runs_root
    from nanogpt_kit.runs.index import index_runs

    runs = index_runs()
    keys = [key.strip() for key in columns.split(",") if key.strip()] if columns else []
    of_filters = ((f"filter {text!r}", key_of(text, runs)) for text in filters)
    for place, key in [*of_filters, ("--sort", sort_key), *(("--columns", key) for key in keys)]:
        if key:
            check_key(key, runs, place)
    chosen = select_runs(runs, filters)
    if sort_key:
        chosen = sorted_by(chosen, sort_key, reverse)[:limit]
    else:
        chosen = chosen[-limit:] if limit else chosen
        chosen = chosen[::-1] if reverse else chosen
    if as_json:
        records = [{key: run.value(key) for key in keys} if keys else run_record(run) for run in chosen]
        print_json(records, indent=None)  # of thousands of runs, with indentation it takes three times as long
        return
    if not chosen:
        what = (
            "no run matches"
            if runs
            else f"there are no runs in {runs_root()}/ yet; `nanogpt-kit run quickstart` makes one"
        )
        click.echo(printable(what), err=True)
        return
    print_table(chosen, keys or default_columns(chosen))


def sorted_by(runs: Sequence[IndexedRun], key: str, reverse: bool) -> list[IndexedRun]:
    """By the value of a key, numbers before texts; runs without it are always last."""
    having = [run for run in runs if run.value(key) is not None]
    having.sort(key=lambda run: sort_value(run.value(key)), reverse=reverse)
    return [*having, *(run for run in runs if run.value(key) is None)]


def sort_value(value: Any) -> tuple[bool, float, str]:
    is_text = not isinstance(value, int | float)
    return is_text, 0.0 if is_text else value, str(value)


def run_record(run: IndexedRun) -> dict[str, Any]:
    """Everything about a run as JSON values."""
    from nanogpt_kit.runs.indexed_run import FIELDS

    fields = {name: run.value(name) for name in FIELDS}
    more = {"evaluated_step": run.evaluated_step, "metrics": run.metrics, "options": run.options, "data": run.data}
    return {**fields, **more, "starts_from": run.starts, "is_whole": run.is_whole}


def default_columns(runs: Sequence[IndexedRun]) -> list[str]:
    """The important fields, and the options that differ between these runs; without columns that would be empty."""
    keys = [*FIRST, *differing_options(runs), *LAST]
    return [key for key in keys if key == "run" or any(run.value(key) is not None for run in runs)]


def differing_options(runs: Sequence[IndexedRun]) -> list[str]:
    """At most MAX_OPTIONS keys whose values differ; those that most runs have come first.

    An option that only some of the components in a slot have is left out: the slot differs.
    """
    first: dict[str, Any] = {}
    differing: set[str] = set()
    counts: Counter[str] = Counter()  # how many runs have it
    for run in runs:
        counts.update(run.options.keys())
        differing.update(key for key, value in run.options.items() if first.setdefault(key, value) != value)
    found = {
        key: count
        for key, count in counts.items()
        if (key in differing or count < len(runs)) and key.partition(".")[0] in SECTIONS and key not in NOT_SHOWN
    }
    keys = [
        key
        for key, count in found.items()
        if 4 * count >= len(runs) and not (count < len(runs) and f"{key.rpartition('.')[0]}.use" in found)
    ]
    keys.sort(key=lambda key: (-found[key], SECTIONS.index(key.partition(".")[0])))
    return [key.removesuffix(".use") for key in keys[:MAX_OPTIONS]]


def print_table(runs: Sequence[IndexedRun], keys: Sequence[str]) -> None:
    columns = [column_of(runs, key) for key in keys]
    width = terminal_width(sys.stdout) if is_terminal(sys.stdout) else None
    lines, left_out = table_lines(columns, width)
    click.echo("\n".join(lines))
    if left_out:
        click.echo(printable(f"left out, for lack of space: {', '.join(left_out)}; --columns chooses"), err=True)


def column_of(runs: Sequence[IndexedRun], key: str) -> Column:
    from nanogpt_kit.runs.description import one_line

    texts = [one_line(cell_text(run, key)) for run in runs]
    if key == "run":  # names of runs differ at their right, where they have the run id
        return Column(key, texts, "left", MIN_RUN)
    if key in TEXTS:
        return Column(key, texts, "right", MIN_TEXT, rank=1)
    return Column(key, texts, rank=2 if key in FIRST else 0)


def cell_text(run: IndexedRun, key: str) -> str:
    value = run.value(key)
    if key == "step":
        return f"{run.step}/{run.total_steps}" if run.total_steps not in (0, run.step) else str(run.step)
    if value is None:
        return "nan" if key in run.metrics else ""
    if key in run.metrics:
        return metric_text(value)
    if isinstance(value, float):
        return f"{value:.1f}" if key == "seconds" else f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def metric_text(value: float) -> str:
    """As `eval` prints metrics, except very small and very large ones."""
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e3 else f"{value:.6g}"
