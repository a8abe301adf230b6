"""Arguments and options that several verbs have, and loading of the experiment they name."""

from __future__ import annotations

import glob
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nanogpt_kit.cli.argument_order import experiment_argument, override_arguments
from nanogpt_kit.cli.candidates import callback_candidates, experiment_candidates, step_candidates
from nanogpt_kit.cli.lines import print_lines
from nanogpt_kit.cli.option_remedy import trained_model_remedy
from nanogpt_kit.cli.override_candidates import override_candidates
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.shipped import find_experiment, is_bare_name
from nanogpt_kit.launch.processes import LAUNCHED
from nanogpt_kit.system.garbage_collection import without_garbage_collection

if TYPE_CHECKING:
    from nanogpt_kit.core.experiment import Experiment

EXPERIMENT = click.argument(
    "experiment", callback=experiment_argument, metavar="EXPERIMENT", shell_complete=experiment_candidates
)
TRUST = click.option("--trust-code", is_flag=True, help="Execute component files that never ran on this machine.")
STEP = click.option(
    "--step",
    type=click.IntRange(0),
    shell_complete=step_candidates,
    help="Use the checkpoint of this step.  [default: the newest]",
)
WEIGHTS = click.option(
    "--weights",
    metavar="CALLBACK",
    shell_complete=callback_candidates,
    help="Use the weights saved by a callback, such as ema.  [default: the trained weights]",
)
OVERRIDES = click.argument(
    "overrides",
    nargs=-1,
    callback=override_arguments,
    metavar="[KEY=VALUE]...",
    shell_complete=override_candidates,
)


def load_experiment(path: str, overrides: Sequence[str], trust_code: bool = False, nproc: int = 1) -> Experiment:
    """Loads an experiment for `nproc` processes, and prints its notes on stderr."""
    from nanogpt_kit.core.experiment import Experiment
    from nanogpt_kit.runs.recorded_experiment import load_made_with, made_with_beside

    check_experiment_exists(path)
    with without_garbage_collection():  # components import torch
        made_with = made_with_beside(Path(path))
        if made_with is None:
            experiment = Experiment.load(path, overrides, trust_code, nproc)
        else:
            experiment = load_made_with(made_with, path, overrides, trust_code, nproc)
    print_notes(experiment.notes)
    return experiment


def check_experiment_exists(text: str) -> None:
    """Raises KitError where `text` names no experiment; if it names runs, with the command that continues one."""
    try:
        find_experiment(text)
    except KitError:
        from nanogpt_kit.runs.find import unknown_run
        from nanogpt_kit.runs.folder import runs_root

        is_path = not is_bare_name(text)
        inside = os.path.relpath(text, runs_root()).split(os.sep) if is_path else [text]
        if inside[0] in (os.curdir, os.pardir) or text.endswith(".toml"):
            raise
        name = inside[0]
        if not any(runs_root().glob(f"{glob.escape(name)}/*/experiment.toml")):
            if is_path:
                raise unknown_run(text) from None
            raise
        command = shlex.join(["nanogpt-kit", "run", "--resume", name])
        runs = f"but {runs_root() / name} has runs of {'that experiment' if is_path else 'this name'}"
        what = "run" if is_path else "experiment"
        raise KitError(f"no {what} {text!r}, {runs}: `{command}` continues the newest unfinished one") from None


def print_notes(notes: Sequence[str]) -> None:
    if not int(os.environ.get("RANK", "0")) and LAUNCHED not in os.environ:  # else another process prints the same
        for note in notes:
            print_lines(f"note: {note}", err=True)


def ask_to_execute(path: Path, size: int) -> bool:
    """Whether the user agrees; False without a terminal, and where a run has several processes."""
    if "RANK" in os.environ or not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    name = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(path.absolute()))
    print_lines(f"component file {name} ({size:,} bytes) never ran here; it can do anything that you can", err=True)
    return click.confirm("execute it?", err=True)


def check_overrides(overrides: Sequence[str], allowed: Sequence[str], runs: Sequence[str]) -> None:
    """Raises KitError for a key that is not `allowed` for trained models.

    `tokenizer` is allowed where all `runs` are models in another program's format.
    """
    for text in overrides:
        key = text.split("=")[0]
        kind = key.split(".")[0]
        if key in allowed or kind in allowed:
            continue
        if kind == "tokenizer":
            from nanogpt_kit.generate.source import is_foreign_model

            if all(is_foreign_model(Path(run)) for run in runs):
                continue
        keys = f"{', '.join(allowed[:-1])} and {allowed[-1]}"
        remedy = trained_model_remedy(key, allowed) or f"only {keys} can be overridden"
        raise KitError(f"command line: {text!r}: the model is already trained; {remedy}")
