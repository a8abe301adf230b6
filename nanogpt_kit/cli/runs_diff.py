"""`nanogpt-kit runs diff A B`: in what two runs differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from nanogpt_kit.cli.candidates import listed_run_candidates
from nanogpt_kit.cli.json_output import json_option, print_json
from nanogpt_kit.cli.paths import expand_path_argument
from nanogpt_kit.core.errors import printable

if TYPE_CHECKING:
    from nanogpt_kit.runs.differences import Pairs, RunDifferences

SECTIONS = ("options", "code", "data", "environment", "metrics")
NONE = "-"  # where one of the runs has no value


@click.command("diff", epilog="Example: nanogpt-kit runs diff quickstart quickstart@best")
@click.argument("first", metavar="A", callback=expand_path_argument, shell_complete=listed_run_candidates)
@click.argument("second", metavar="B", callback=expand_path_argument, shell_complete=listed_run_candidates)
@json_option()
def diff_runs(first: str, second: str, as_json: bool) -> None:
    """Show in what runs A and B differ: options, code of components, data, environment, and final metrics.

    Local component files are compared line by line. Where the metrics differ, `compare` judges whether that is more
    than chance.
    """
    from nanogpt_kit.runs.differences import compare_folders
    from nanogpt_kit.runs.find import find_run
    from nanogpt_kit.runs.index import read_run

    runs = [read_run(find_run(name).folder) for name in (first, second)]
    found = compare_folders(*runs)
    if as_json:
        values = {name: getattr(found, name) for name in (*SECTIONS, "sources")}
        values |= {"evaluated_steps": found.steps, "unrecorded": found.unrecorded}
        record = {"runs": [run.path for run in runs], **values}
        print_json(record)
        return
    click.echo(printable(f"A  {runs[0].reference}\nB  {runs[1].reference}"))
    for line in difference_lines(found):
        click.echo(printable(line))


def difference_lines(found: RunDifferences) -> Iterator[str]:
    for section in SECTIONS:
        pairs: Pairs = getattr(found, section)
        remark = steps_remark(found) if section == "metrics" else ""
        if not pairs and not (section == "code" and found.sources):
            missing = " and ".join(found.unrecorded.get(section, []))
            yield f"{section}: {f'not recorded in {missing}' if missing else f'no difference{remark}'}"
            continue
        yield f"{section}{remark}"
        yield from metric_lines(pairs) if section == "metrics" else pair_lines(pairs)
        for diff in found.sources.values() if section == "code" else ():
            yield from (f"  {line}" for line in diff.splitlines())


def steps_remark(found: RunDifferences) -> str:
    first, second = (f"{step:,}" if step is not None else NONE for step in found.steps)
    return "" if first == second else f" (evaluated at step {first} and {second})"


def pair_lines(pairs: Mapping[str, tuple[Any, Any]]) -> Iterator[str]:
    yield from aligned([[key, cell(first), cell(second)] for key, (first, second) in pairs.items()])


def metric_lines(pairs: Mapping[str, tuple[Any, Any]]) -> Iterator[str]:
    from nanogpt_kit.cli.runs_list import metric_text

    rows = []
    for key, pair in pairs.items():
        numbers = [value for value in pair if value is not None]
        change = f"{pair[1] - pair[0]:+.4g}" if len(numbers) == 2 else ""
        rows.append([key, *(NONE if value is None else metric_text(value) for value in pair), change])
    yield from aligned(rows)


def aligned(rows: list[list[str]]) -> Iterator[str]:
    """Key, A, B and more in columns; long values of A do not push B far to the right."""
    widths = [max((len(row[index]) for row in rows), default=0) for index in (0, 1)]
    for key, first, *others in rows:
        yield f"  {key:{widths[0]}}  {first:{min(widths[1], 40)}}  {'  '.join(others)}".rstrip()


def cell(value: Any) -> str:
    if value is None:
        return NONE
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.replace("\n", "\\n")
