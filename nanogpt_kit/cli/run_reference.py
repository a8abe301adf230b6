"""What the first argument of `run` names: an experiment, or a run that continues with its own settings."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nanogpt_kit.cli.experiment import load_experiment, print_notes
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.overrides import parse_override
from nanogpt_kit.runs.folder import RUN_ID, RunFolder, runs_of_experiment, runs_root
from nanogpt_kit.runs.resume_command import kit_command, run_argument

if TYPE_CHECKING:
    from nanogpt_kit.core.experiment import Experiment


@dataclass(frozen=True)
class NamedRun:
    """A run that continues; with a step, a new run begins from that checkpoint of it."""

    folder: RunFolder
    step: int | None = None

    def __str__(self) -> str:
        return str(self.folder) if self.step is None else f"{self.folder}@{self.step}"

    def as_argument(self) -> str:
        """The first argument of `run` that names it."""
        path = run_argument(self.folder)
        return path if self.step is None else f"{path}@{self.step}"

    def check_alone(self, resume: str | None, into: str | None, seeds: int | None) -> None:
        """Raises KitError for options that exclude a run as the first argument."""
        if resume and resume != str(self):
            raise KitError(f"{self} and --resume={resume} are two runs; remove one of them")
        if into or seeds:
            option = "--into" if into else "--seeds"
            what = "continues in its own folder with its own seed"
            if self.step is not None:
                what = "begins a new run, in a new folder and with the same seed"
            raise KitError(f"{self} {what}; remove {option}")


def find_named_run(text: str) -> NamedRun | None:
    """The run that a folder, a run id, or a reference with @best or @STEP names; None for an experiment.

    A bare name is that of an experiment, even where a run folder in the current folder has it.
    """
    folder = run_by_folder_or_id(text)
    if folder is not None:
        return NamedRun(folder)
    if "@" not in text or os.path.isfile(text):
        return None
    from nanogpt_kit.train.resume import CHECKPOINT_OF_RUN, find_run_or_checkpoint

    if not (CHECKPOINT_OF_RUN.fullmatch(text) or text.endswith("@best")):
        return None
    return NamedRun(*find_run_or_checkpoint(text))


def run_by_folder_or_id(text: str) -> RunFolder | None:
    """The run with this folder, or with this run id below the runs folder. Raises KitError for an unknown run id."""
    is_id = RUN_ID.fullmatch(text) is not None
    if os.path.exists(os.path.join(text, "experiment.toml")):
        if is_id or not is_bare_name(text):
            return RunFolder(Path(text))
        if not os.path.exists(f"{text}.toml"):
            remedy = f"nanogpt-kit run {os.path.join(os.curdir, text)}"
            raise KitError(f"{text!r} is a run folder, and a name without a slash is an experiment's; write: {remedy}")
    found = [path.parent for path in runs_root().glob(f"*/{text}/experiment.toml")] if is_id else []
    if is_id and not found:
        raise KitError(f"there is no run {text} in {runs_root()}/")
    return RunFolder(found[0]) if found else None


def is_bare_name(text: str) -> bool:
    """Whether this is a name, such as that of an experiment, and not a path."""
    return os.path.basename(text) == text and not text.endswith(".toml") and not os.path.isfile(text)


def newest_unfinished_run(name: str, overrides: Sequence[str], trust_code: bool) -> NamedRun:
    """The newest unfinished run of an experiment, by its name or by that of its file.

    Raises KitError where it has no such run, Busy where another process uses the only one.
    """
    from nanogpt_kit.train.resume import newest_unfinished

    given = dict(map(parse_override, overrides))
    if ("name",) in given or not any(runs_root().glob(f"{glob.escape(name)}/*/experiment.toml")):
        name = load_experiment(name, overrides, trust_code).name
    return NamedRun(newest_unfinished(name, given.get(("train", "seed"))))


def load_to_continue(
    path: str, overrides: Sequence[str], trust_code: bool, n_processes: int, run: str | None, into: str | None
) -> Experiment:
    """The experiment of a file, of which a run continues; a fault in it names what the run was made with.

    `run` is the run that is resumed ("": the newest unfinished one), `into` a folder in which one may be.
    """
    try:
        return load_experiment(path, overrides, trust_code, n_processes)
    except KitError:
        folder = run_of_file(path, overrides, run, into)
        if folder is None:
            raise
    from nanogpt_kit.runs.recorded_experiment import load_made_with, made_with_of

    experiment = load_made_with(made_with_of(folder), path, overrides, trust_code, n_processes)
    print_notes(experiment.notes)
    return experiment


def run_of_file(path: str, overrides: Sequence[str], run: str | None, into: str | None) -> RunFolder | None:
    """The run that continues with the settings of a file; None where none is found, or where the file has no name."""
    from nanogpt_kit.core.experiment import Experiment
    from nanogpt_kit.core.experiment_keys import ExperimentKeys
    from nanogpt_kit.core.layers import Layers
    from nanogpt_kit.train.resume import find_run_or_checkpoint, newest_unfinished

    if into is not None:
        return RunFolder(Path(into)) if RunFolder(Path(into)).experiment.exists() else None
    try:
        if run:
            return find_run_or_checkpoint(run)[0]
        return newest_unfinished(Layers.load(Path(path), overrides, ExperimentKeys(Experiment)).values["name"])
    except (KitError, KeyError, TypeError):
        return None


def load_own_settings(run: NamedRun, overrides: Sequence[str], trust_code: bool, n_processes: int) -> Experiment:
    """The experiment that the run has recorded, with these overrides, for this number of processes."""
    from nanogpt_kit.runs.recorded_experiment import load_recorded

    experiment = load_recorded(run.folder, overrides, trust_code, step=run.step, n_processes=n_processes)
    print_notes(experiment.notes)
    from nanogpt_kit.train.context import resolve_run_context

    if experiment.parallel.refusal_reason(resolve_run_context(experiment, n_processes)[0]) is None or any(
        parse_override(text)[0][0] == "parallel" for text in overrides
    ):
        return experiment
    layers = experiment.layers.copy()  # recorded for another number of processes: the default for this one applies
    del layers.values["parallel"]
    if n_processes > 1:
        layers.set_default("parallel", experiment.parallel_of_several)
    return type(experiment).of(layers, experiment.folder, trust_code)


def extend_remedy(experiment: str, steps: int, resume: str | None) -> str:
    """What to write where --extend is given with an experiment: the run to resume, or the newest finished one."""
    runs = runs_of_experiment(runs_root() / experiment) if is_bare_name(experiment) else []
    finished = [run for run in runs if run.status().state == "finished"]
    name = resume or (run_argument((finished or runs)[-1]) if runs else "RUN")
    return f"--extend takes a run that was trained, as in: {kit_command('run', name, '--extend', str(steps))}"


def extended_overrides(run: NamedRun, overrides: Sequence[str], steps: int, trust_code: bool) -> tuple[str, ...]:
    """The overrides with those by which the run takes `steps` more steps than it was made for."""
    if any(parse_override(text)[0] in (("train", "steps"), ("train", "max_tokens")) for text in overrides):
        raise KitError("--extend and train.steps both give the number of steps; remove one of them")
    from nanogpt_kit.runs.recorded_experiment import load_recorded
    from nanogpt_kit.train.extension import extension_overrides

    recorded = load_recorded(run.folder, (), trust_code, needs=())
    return (*overrides, *extension_overrides(recorded, steps))
