"""`nanogpt-kit runs rm RUN...`: removes runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from nanogpt_kit.cli.byte_text import format_bytes
from nanogpt_kit.cli.candidates import listed_run_candidates
from nanogpt_kit.cli.lines import print_lines
from nanogpt_kit.core.errors import Busy, KitError
from nanogpt_kit.core.paths import expand_path

if TYPE_CHECKING:
    from nanogpt_kit.runs.folder import RunFolder

STUDY_FILES = ("study.journal", "study.db", "trials")  # one of them is in the folder of a sweep or a comparison


@click.command("rm", epilog="Example: nanogpt-kit runs rm 20260102-030405006-s1337-0a1b2c")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", shell_complete=listed_run_candidates)
@click.option("--yes", is_flag=True, help="Do not ask; also remove runs that the record of a comparison names.")
def remove_runs(runs: tuple[str, ...], yes: bool) -> None:
    """Remove each RUN, a run folder or a run id, with its checkpoints; shows what is removed, and asks.

    Refused are runs that another process uses, that other runs began from, that are trials of an unfinished sweep
    or comparison, and without --yes those that the record of a comparison names. If one is refused, none is removed.
    """
    from nanogpt_kit.runs.folder import RunFolder
    from nanogpt_kit.runs.removal import comparisons_with, remove_run
    from nanogpt_kit.system.folders import folder_bytes

    folders = named_folders([expand_path(text, "RUN", "command line") for text in runs])
    check_removable(folders, yes)
    sizes = [folder_bytes(folder.path) for folder in folders]
    for folder, size in zip(folders, sizes, strict=True):
        print_lines(f"{folder}: {format_bytes(size)}, {removal_text(folder)}", err=True)
        for record in comparisons_with(folder):
            print_lines(f"  the record of the comparison {record} stays, with this run's values", err=True)
    if not yes:
        if not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
            raise KitError("nothing is removed without a terminal to ask on; --yes removes these runs")
        count = "this run" if len(folders) == 1 else f"these {len(folders)} runs"
        if not click.confirm(f"remove {count}, {format_bytes(sum(sizes))}?", err=True):
            print_lines("nothing was removed", err=True)
            return
        check_removable(folders, yes=True)  # much may have happened while it asked
    for folder in sorted(folders, key=RunFolder.started, reverse=True):  # after a kill no run lacks what it began from
        remove_run(folder)
        print_lines(f"removed: {folder}")


def named_folders(names: Sequence[str]) -> list[RunFolder]:
    """The runs, each once. Raises KitError for a name that stands for one of several runs, or for a checkpoint."""
    from nanogpt_kit.runs.find import find_run
    from nanogpt_kit.runs.resume_command import run_argument

    folders: dict[str, RunFolder] = {}
    faults = []
    for name in names:
        found = find_run(name)
        if found.step is not None:
            faults.append(
                f"{name!r} names a checkpoint, and runs are removed whole; name the run: {run_argument(found.folder)}"
            )
        elif found.experiment:
            ids = " ".join(run_argument(run) for run in found.runs[:5]) + (" ..." if len(found.runs) > 5 else "")
            faults.append(f"{name!r} names an experiment; name its runs by their folders: {ids}")
        else:
            folders[os.path.realpath(found.folder.path)] = found.folder
    if faults:
        raise KitError(*faults)
    return list(folders.values())


def check_removable(folders: Sequence[RunFolder], yes: bool) -> None:
    """Raises Busy where that is the only obstacle, otherwise KitError with every reason why a run should stay."""
    from nanogpt_kit.runs.index import index_runs
    from nanogpt_kit.runs.removal import comparisons_with, is_busy, reasons_to_stay

    everything, removed = index_runs(), {os.path.realpath(folder.path) for folder in folders}
    reasons: list[str] = []
    for folder in folders:
        reasons += reasons_to_stay(folder, everything, removed)
        reasons += sweep_reasons(folder)
        if not yes:
            named = comparisons_with(folder)
            remedy = "--yes removes the run; the record stays"
            reasons += [f"{folder} is named in the record of the comparison {record}; {remedy}" for record in named]
    busy = [f"{folder} is being used by another process" for folder in folders if is_busy(folder)]
    if reasons:
        raise KitError(*busy, *reasons)
    if busy:
        raise Busy(*busy)


def sweep_reasons(folder: RunFolder) -> list[str]:
    """Why a run that is a trial of a sweep should stay."""
    parent = folder.path.absolute().parent
    if not any((parent / name).exists() for name in STUDY_FILES):
        return []
    from nanogpt_kit.sweep.study.unfinished import unfinished_trials

    try:
        count = unfinished_trials(parent)
    except KitError as error:
        return [f"{folder} is a trial of the study in {parent}, which cannot be read: {error}"]
    if count is None:
        remedy = f"so whether it has ended is unknown; remove the whole folder {parent} yourself"
        return [f"{folder} is a trial of a study in another storage, {remedy}"]
    if count:
        trials = "1 trial has" if count == 1 else f"{count} trials have"
        return [f"{folder} is a trial of the study in {parent}, of which {trials} not ended; finish it first"]
    return []


def removal_text(folder: RunFolder) -> str:
    """What is lost."""
    status, steps = folder.status(), folder.checkpoint_steps()
    checkpoints = "1 checkpoint" if len(steps) == 1 else f"{len(steps)} checkpoints"
    return f"{status.state} at step {status.step:,}, {checkpoints}"
