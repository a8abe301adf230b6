"""Where a comparison is from: its command and record, its runs, and what they ran with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from nanogpt_kit.comparison.ledger import COMPARISON
from nanogpt_kit.comparison.record import Comparison
from nanogpt_kit.comparison.report import tables
from nanogpt_kit.comparison.report.arm_runs import ArmRun
from nanogpt_kit.report.page import Page, utc_time
from nanogpt_kit.report.run_sections import provenance_of
from nanogpt_kit.runs.description import one_line
from nanogpt_kit.runs.folder import relative_to_cwd
from nanogpt_kit.runs.index import read_run

OF_ONE_RUN = {"run", "note", "command", "started", "seed", "configuration"}  # in other tables, or always different


def add_origin(page: Page, comparison: Comparison, names: Sequence[str], found: Sequence[ArmRun], folder: Path) -> None:
    page.section("Provenance")
    if comparison.command:
        page.command(one_line(comparison.command))
    page.mapping(
        [
            ("record", one_line(str(relative_to_cwd((folder / COMPARISON).absolute())))),
            ("first asked", utc_time(comparison.started)),
            ("judged", utc_time(comparison.time)),
            ("metric", f"{one_line(comparison.metric)}, to {comparison.direction}"),
            ("yardstick", one_line(comparison.yardstick)),
            ("id", one_line(comparison.id)),
            *run_facts(found),
        ]
    )
    tables.add_runs(page, comparison, names, [one.problem for one in found])


def run_facts(found: Sequence[ArmRun]) -> Iterator[tuple[str, str]]:
    """Code, packages, machines and data of the runs that are there: each distinct value once, with a count of runs."""
    facts: dict[str, Counter[str]] = {}
    runs = [one.folder for one in found if one.folder is not None]
    for run in runs:
        for name, text in provenance_of(read_run(run)).items():
            if name not in OF_ONE_RUN:
                facts.setdefault(name, Counter())[one_line(text)] += 1
    for name, texts in facts.items():
        for text, count in texts.most_common():
            yield name if count == len(runs) else f"{name} of {count:,} of {len(runs):,} runs", text
