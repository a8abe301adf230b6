"""Groups of runs: those of one configuration in a folder, of an experiment, or of a trial of a sweep."""

from __future__ import annotations

import glob
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.overrides import COMMAND_LINE
from nanogpt_kit.runs.find import readings, runs_by_name
from nanogpt_kit.runs.folder import RunFolder, relative_to_cwd, runs_root
from nanogpt_kit.runs.index import run_paths
from nanogpt_kit.runs.resume_command import run_argument

SEED_SUFFIX = re.compile(r"-s[0-9]+")  # of the folders of a trial's or an arm's runs


@dataclass(frozen=True)
class RunGroup:
    """Runs of one configuration that have ended, one for each seed."""

    runs: tuple[RunFolder, ...]  # by seed
    seeds: tuple[int, ...]
    newest: RunFolder  # finished
    left_out: int = 0  # runs that have not ended, of another configuration, or older ones of the same seed

    def describe(self) -> str:
        """One line for people."""
        text = f"{len(self.runs)} runs with {seeds_text(self.seeds)}" if len(self.runs) > 1 else f"{self.newest}"
        if not self.left_out:
            return text
        others = "another run is" if self.left_out == 1 else f"{self.left_out} other runs are"
        return f"{text}; {others} unfinished, repeated or of another configuration, and left out"


def seeds_text(seeds: Sequence[int]) -> str:
    """Such as "seed 1337", "seeds 1337 and 1339", "seeds 1337 to 1341"."""
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return f"seeds {', '.join(map(str, seeds[:-1]))} and {seeds[-1]}" if seeds else "no seeds"


def find_group(argument: str) -> RunGroup | None:
    """The group that an argument names; None where no run has that name.

    It is a run, a folder of runs, an experiment's name, or the common beginning of the folders of a trial's runs, such
    as runs/NAME/sweep/trial-0003. Of several runs those count that have ended and have the configuration of the newest
    finished one. Raises KitError where none is finished, and for references with @best or @STEP.
    """
    folders = named_folders(argument)
    if folders is None:
        check_no_suffix(argument)
        return None
    finished = [folder for folder in folders if folder.status().state == "finished"]
    if not finished:
        raise no_finished_run(argument, folders)
    return group_like(finished[-1], folders)


def group_like(newest: RunFolder, folders: Sequence[RunFolder]) -> RunGroup:
    """Those of the runs with the configuration of `newest`; of one seed the newest that is finished."""
    configuration = newest.provenance().configuration
    by_seed: dict[int, RunFolder] = {}
    for folder in sorted(filter(has_ended, folders), key=lambda run: run.status().state == "finished"):
        origin = folder.provenance_or_none()
        if origin and origin.configuration == configuration:
            by_seed[origin.seed] = folder
    runs = tuple(by_seed[seed] for seed in sorted(by_seed))
    return RunGroup(runs, tuple(sorted(by_seed)), newest, len(folders) - len(runs))


def has_ended(run: RunFolder) -> bool:
    """Whether it is a result: finished, or failed since a loss, a weight or an evaluation was not finite."""
    status = run.status()
    return status.state == "finished" or (status.state == "failed" and status.cause == "not_finite")


def named_folders(argument: str) -> list[RunFolder] | None:
    """The runs of that name, the newest last; None where there are none."""
    found = runs_by_name(argument)
    if found is not None:
        return [found] if isinstance(found, RunFolder) else found
    for path in (Path(argument), runs_root() / argument):
        if runs := runs_of_prefix(path):
            return runs
    return None


def runs_of_prefix(path: Path) -> list[RunFolder]:
    """The runs whose folders are named `path`, -s and a seed."""
    found = path.parent.glob(f"{glob.escape(path.name)}-s*") if path.name else ()
    runs = [
        RunFolder(folder)
        for folder in found
        if SEED_SUFFIX.fullmatch(folder.name.removeprefix(path.name)) and os.path.exists(folder / "experiment.toml")
    ]
    return sorted(runs, key=lambda run: (run.started(), run.path.name))


def run_below(argument: str) -> Path | None:
    """The folder of a run that is deeper below the folder of that name; None where there is none."""
    root = runs_root().absolute()
    tops = [Path(os.path.normpath(top)) for top in (Path(argument).absolute(), root / argument)]
    for path in map(Path, sorted(run_paths(str(root)))) if argument else ():
        if any(path.is_relative_to(top) for top in tops):
            return relative_to_cwd(path)
    return None


def check_no_suffix(argument: str) -> None:
    """Raises KitError for NAME@best and NAME@STEP, where NAME has runs: a comparison takes whole runs unchosen."""
    for name, is_best, step in list(readings(argument))[1:]:
        if named_folders(name) is None:
            continue
        what = "@best" if is_best else f"@{step}"
        reason = "the best of several runs owes a part to luck" if is_best else "their result is the last evaluation"
        message = f"{argument!r}: runs are compared without {what}, since {reason}; write {shlex.quote(name)}"
        raise KitError(Fault(message, location=COMMAND_LINE))


def no_finished_run(argument: str, folders: Sequence[RunFolder]) -> KitError:
    newest = folders[-1]
    state = f"the newest is {newest.status().state}" if len(folders) > 1 else f"it is {newest.status().state}"
    remedy = f"`nanogpt-kit run {shlex.quote(run_argument(newest))}` continues it"
    return KitError(Fault(f"{argument!r}: no run of it is finished: {state}; {remedy}", location=COMMAND_LINE))
