"""The commands that continue a run, as a user can paste them into a shell of the current folder."""

from __future__ import annotations

import os
import shlex

from nanogpt_kit.runs.folder import RUN_ID, RunFolder, relative_to_cwd


def resume_command(folder: RunFolder, *arguments: str, step: int | None = None) -> str:
    """`nanogpt-kit run RUN ARGUMENTS`; with a step `RUN@STEP`, which begins a new run from that checkpoint."""
    run = run_argument(folder) if step is None else f"{run_argument(folder)}@{step}"
    return kit_command("run", run, *arguments)


def new_run_command(folder: RunFolder, *arguments: str) -> str:
    """The command that trains a new run with the settings of this one."""
    return kit_command("run", os.path.join(run_argument(folder), folder.experiment.name), *arguments)


def kit_command(*arguments: str) -> str:
    return shlex.join(["nanogpt-kit", *arguments])


def run_argument(folder: RunFolder) -> str:
    """The path of a run, so that it is taken neither for an option nor for the name of an experiment."""
    path = str(relative_to_cwd(folder.path))
    is_name = os.path.basename(path) == path and not RUN_ID.fullmatch(path)
    return os.path.join(os.curdir, path) if is_name or path.startswith(("-", "~")) else path
