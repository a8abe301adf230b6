"""The `compare` command that judges what a page of several runs shows."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress

from nanogpt_kit.comparison.groups import find_group
from nanogpt_kit.comparison.ledger import finished_runs
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.runs.folder import RunFolder, relative_to_cwd
from nanogpt_kit.runs.index import index_runs, read_run
from nanogpt_kit.runs.indexed_run import IndexedRun
from nanogpt_kit.runs.ranking import LOSS
from nanogpt_kit.runs.resume_command import kit_command, run_argument

MIN_SHARED = 2  # seeds: a single pair has no spread

RowsBySeed = Mapping[int, IndexedRun]


def verdict_command(runs: Sequence[RunFolder], metric: str = LOSS) -> str:
    """`nanogpt-kit compare BASE CONTENDER...` for configurations of these runs; "" where none compare.

    The base is the first of them that has contenders: others with its budget, all of which share at least two seeds of
    finished runs that `compare` finds.
    """
    groups: dict[str, dict[int, IndexedRun]] = {}
    for row in map(read_run, runs):
        if row.configuration and row.seed is not None and row.state == "finished":
            groups.setdefault(row.configuration, {})[row.seed] = row
    found = list(groups.values())
    arms = next((arms for at in range(len(found)) if len(arms := comparable_with_first(found[at:])) > 1), [])
    rows = index_runs() if arms else []
    words = [argument_of(group, rows) for group in arms]
    if not words or "" in words:
        return ""
    return kit_command("compare", *words, *(("--metric", metric) if metric != LOSS else ()))


def comparable_with_first(groups: Sequence[RowsBySeed]) -> list[RowsBySeed]:
    """The first group, and those with its budget that share at least two seeds with it and each other."""
    base, *others = groups
    arms, shared = [base], set(base)
    for group in others:
        common = shared & group.keys()
        if len(common) >= MIN_SHARED and budget_of(group) == budget_of(base):
            arms.append(group)
            shared = common
    return arms


def budget_of(group: RowsBySeed) -> object:
    """Its limit of seconds, else the tokens that each of its runs was trained on: others are not compared."""
    row = next(iter(group.values()))
    return row.options.get("train.max_seconds") or row.tokens


def argument_of(group: RowsBySeed, rows: Sequence[IndexedRun]) -> str:
    """A folder that has these runs alone; else the experiment that one of them recorded, where `compare` finds them by
    it among all runs (`rows`), but not those that began with another run; else a folder where they are the newest."""
    first = next(iter(group.values()))
    folder, is_its_own = folder_of(group)
    again = finished_runs(first.configuration or "", first.code or "", first.data.get("dataset", ""), rows)
    if is_its_own or not group.keys() <= again.keys():
        return folder
    return os.path.join(run_argument(first.folder), first.folder.experiment.name)


def folder_of(group: RowsBySeed) -> tuple[str, bool]:
    """The folder of the runs, "" where `compare` does not take it as this group; and whether it has no other runs, a
    newer one of which would take the place of the group."""
    parents = {row.folder.path.parent for row in group.values()}
    folder = os.path.join(str(relative_to_cwd(next(iter(parents)))), "")
    with suppress(KitError):
        found = find_group(folder) if len(parents) == 1 else None
        configurations = {row.configuration for row in group.values()}
        if found and found.newest.provenance().configuration in configurations and group.keys() <= {*found.seeds}:
            return folder, not found.left_out
    return "", False
