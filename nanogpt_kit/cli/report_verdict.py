"""The `compare` command that judges what a page of several runs shows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

from nanogpt_kit.comparison.groups import find_group
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.runs.folder import RunFolder, relative_to_cwd
from nanogpt_kit.runs.resume_command import kit_command, run_argument

MIN_SHARED = 2  # seeds: a single pair has no spread


def verdict_command(runs: Sequence[RunFolder]) -> str:
    """`nanogpt-kit compare BASE CONTENDER...` for the configurations of these runs, the first one as the base.

    Those contenders are named that share at least two seeds with the base, over finished runs; "" where none does.
    """
    groups: dict[str, dict[int, RunFolder]] = {}
    for run in runs:
        origin = run.provenance_or_none()
        if origin and origin.data and run.status().state == "finished":
            groups.setdefault(origin.configuration, {})[origin.seed] = run
    if len(groups) < 2:
        return ""
    base, *others = groups.items()
    contenders = [one for one in others if len(one[1].keys() & base[1].keys()) >= MIN_SHARED]
    if not contenders:
        return ""
    return kit_command("compare", *(arm_argument(configuration, group) for configuration, group in (base, *contenders)))


def arm_argument(configuration: str, group: dict[int, RunFolder]) -> str:
    """The folder of the runs where `compare` takes it as this group; else the experiment that one of them recorded."""
    first = next(iter(group.values()))
    folders = {run.path.parent for run in group.values()}
    if len(folders) == 1:
        folder = os.path.join(str(relative_to_cwd(next(iter(folders)))), "")
        with suppress(KitError):
            found = find_group(folder)
            if found and found.newest.provenance().configuration == configuration and {*group} <= {*found.seeds}:
                return folder
    return os.path.join(run_argument(first), first.experiment.name)
