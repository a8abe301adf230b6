"""Finds a run by a reference, as users write it.

A reference is a run folder, a run id or another name of a run's folder, or an experiment's name. Behind it may stand
@best and @STEP: quickstart@best, quickstart@500, quickstart@best@500.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.shipped import find_experiment
from nanogpt_kit.core.toml import read_toml_file
from nanogpt_kit.runs.description import describe_choice, describe_run, one_line
from nanogpt_kit.runs.folder import RunFolder, runs_of_experiment, runs_root
from nanogpt_kit.runs.index import run_paths
from nanogpt_kit.runs.ranking import rank_runs

PUBLISHED_MODELS = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")  # models that `import` downloads
BEST = "@best"
STEP_SUFFIX = re.compile(r"(.+)@([0-9]{1,18})", re.DOTALL)
MAX_NAMES = 20  # in a message


@dataclass(frozen=True)
class FoundRun:
    """The run that a reference stands for."""

    folder: RunFolder
    step: int | None = None  # of the checkpoint that the reference names; None: the newest
    experiment: str = ""  # the reference without suffixes, where it names an experiment
    runs: tuple[RunFolder, ...] = ()  # of that experiment, the newest last
    is_best: bool = False  # of those runs, chosen by @best

    def described(self, step: int | None = None) -> str:
        """One line about the run, its checkpoint and the other runs; `step` is that of the checkpoint that is used,
        where it is known, for the newest may be damaged."""
        if step is None:
            step = self.step if self.step is not None else max(self.folder.checkpoint_steps(), default=None)
        remarks = describe_choice(self.folder, self.runs, self.experiment, self.is_best)
        return describe_run(self.folder, step, remarks)


def find_run(reference: str | os.PathLike[str], step: int | None = None) -> FoundRun:
    """The run that a reference stands for, with the step that it names, or `step`.

    An experiment stands for its newest finished run, else for its newest one with a checkpoint, else for its newest;
    with @best for the run with the lowest last evaluation, see `rank_runs`. A single run with @best stands for its best
    checkpoint, which checkpoint.keep_best has kept. Raises KitError where there is no such run or checkpoint.
    """
    text = os.fspath(reference)
    for name, is_best, named_step in readings(text):
        folders = runs_by_name(name)
        if folders is None:
            continue
        if step is not None and named_step not in (None, step):
            raise KitError(f"{text!r} names step {named_step}, and step {step} is requested, too; give one of them")
        wanted = step if named_step is None else named_step
        if isinstance(folders, RunFolder):
            return FoundRun(folders, checkpoint_step(folders, wanted, is_best))
        folder = best_run(folders, name) if is_best else preferred_run(folders)
        experiment = name.rstrip("/" + os.sep)
        return FoundRun(folder, checkpoint_step(folder, wanted), experiment, tuple(folders), is_best)
    raise unknown_run(text)


def readings(text: str) -> Iterator[tuple[str, bool, int | None]]:
    """(name, whether @best follows, step) for each way to read a reference: a folder's name may have such an ending."""
    yield text, False, None
    name, step = text, None
    if match := STEP_SUFFIX.fullmatch(text):
        name, step = match[1], int(match[2])
        yield name, False, step
    if name.endswith(BEST) and name != BEST:
        yield name.removesuffix(BEST), True, step


def runs_by_name(name: str) -> RunFolder | list[RunFolder] | None:
    """A run by its folder, or the runs of an experiment; else a run by the name of its folder, at any depth; None where
    none is.

    Raises KitError where runs of two experiments have that name.
    """
    for path in (Path(name), runs_root() / name):
        if os.path.exists(path / "experiment.toml"):  # unlike Path.exists, a name may be longer than a file's can be
            return RunFolder(path)
        if os.path.isdir(path) and (folders := runs_of_experiment(path)):
            return folders
    if Path(name).name != name:
        return None
    same = [folder / name for folder in experiment_folders() if os.path.exists(folder / name / "experiment.toml")]
    same = same or [Path(path) for path in run_paths(os.fspath(runs_root())) if os.path.basename(path) == name]
    if len(same) > 1:
        names = sorted(map(str, same))
        paths = name_list(names) if len(same) > 2 else " and ".join(map(one_line, names))
        raise KitError(f"{name!r} is the name of {len(same)} runs: {paths}; name one by its folder")
    return RunFolder(same[0]) if same else None


def preferred_run(folders: Sequence[RunFolder]) -> RunFolder:
    """The newest finished run, else the newest one with a checkpoint, else the newest."""
    with_checkpoint = None
    for folder in reversed(folders):
        if folder.checkpoint_steps():
            with_checkpoint = with_checkpoint or folder
            if folder.status().state == "finished":
                return folder
    return with_checkpoint or folders[-1]


def best_run(folders: Sequence[RunFolder], name: str) -> RunFolder:
    """The best of the runs that compare with the preferred one. Raises KitError where none was evaluated."""
    ranking = rank_runs(folders, preferred_run(folders))
    if ranking is None:
        names = name_list([folder.path.name for folder in reversed(folders)])
        raise KitError(f"no run of {one_line(name)} has a checkpoint and a val/loss; name one of its runs: {names}")
    return ranking.best


def checkpoint_step(folder: RunFolder, step: int | None, is_best: bool = False) -> int | None:
    """The step that was named, or that of the best checkpoint. Raises KitError where there is no such checkpoint."""
    if is_best and step is not None:
        raise KitError(
            f"{one_line(str(folder))} is a single run: @best and a step exclude each other; give one of them"
        )
    steps = folder.checkpoint_steps()
    there = f"there are: {name_list(list(map(str, steps)))}"
    if is_best:
        best = folder.status().best
        if best is None:
            reason = "has no record of its best checkpoint, which a run with checkpoint.keep_best has once it has ended"
            raise KitError(f"{one_line(str(folder))} {reason}; {there}")
        if best.step not in steps:
            raise KitError(f"{one_line(str(folder))}: its best checkpoint, of step {best.step}, was removed; {there}")
        return best.step
    if step is not None and step not in steps:
        raise KitError(f"{one_line(str(folder))} has no checkpoint of step {step}; {there}")
    return step


def experiment_folders() -> list[Path]:
    """The folders in which runs may be, in order of their names."""
    try:
        return sorted(path for path in runs_root().iterdir() if path.is_dir())
    except OSError:  # there is no such folder yet
        return []


def runs_here() -> dict[str, list[RunFolder]]:
    """The runs of each experiment that has any, by its name."""
    found = {folder.name: runs_of_experiment(folder) for folder in experiment_folders()}
    return {name: folders for name, folders in found.items() if folders}


def unknown_run(text: str) -> KitError:
    """That no run is found, with what is there and what to do."""
    known = runs_here()
    names = [*known, *(run.path.name for folders in known.values() for run in folders)]
    *_, (bare, _, _) = readings(text)
    close = difflib.get_close_matches(bare, names, n=1)
    guess = f"; did you mean {one_line(close[0])!r}?" if close else "."
    remedies = "".join(f" {remedy}." for remedy in remedies_for(text, bare, known))
    here = f" Runs here: {name_list(list(known))}." if known else " There are no runs yet."
    return KitError(
        f"no run {text!r}, and no experiment of that name has runs in {runs_root()}/{guess}{remedies}{here}"
    )


def remedies_for(text: str, bare: str, known: Collection[str]) -> Iterator[str]:
    """What may have been meant, as sentences without their full stops; `bare` is the reference without suffixes."""
    name, _, suffix = text.rpartition("@")
    if name in known and suffix:
        yield f"A name may be followed by @best or @STEP, as in {name}@best and {name}@500"
    with suppress(KitError):
        name = str(read_toml_file(find_experiment(bare)).values.get("name"))
        command = f"nanogpt-kit run {shlex.quote(bare)}"
        remedy = f"its runs have the name {name}" if name in known else f"`{command}` trains it"
        yield one_line(f"{bare} is an experiment; {remedy}")
    published = difflib.get_close_matches(bare.rpartition("/")[2], PUBLISHED_MODELS, n=1, cutoff=0.8)
    if published:
        yield f"`nanogpt-kit import {published[0]}` downloads the published model and makes a run of that name"


def name_list(names: Sequence[str]) -> str:
    shown = ", ".join(map(one_line, names[:MAX_NAMES]))
    return f"{shown} and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else shown or "none"
