"""The last lines of a run: where it is, how good it is, and how to see more of it."""

from __future__ import annotations

import shlex
from contextlib import suppress

from nanogpt_kit.core.duration import format_duration
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.runs.find import find_run
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.metrics import last_evaluation


def outcome_text(folder: RunFolder, with_next: bool = True) -> str:
    """What is printed of a run that has just finished; `with_next` names a command to continue with."""
    status = folder.status()
    evaluation = last_evaluation(folder.metrics)
    loss = [f"val/loss {evaluation['val/loss']:.4f}"] if evaluation else []
    planned = "" if status.step == status.total_steps else f" of {status.total_steps:,}"
    reason = f" ({status.reason})" if status.reason else ""
    steps = f"{status.step:,}{planned} steps{reason}, {format_duration(status.seconds)} of training"
    next_command = f"\nmore text: nanogpt-kit sample {shlex.quote(shortest_name(folder))}" if with_next else ""
    return f"finished: {folder}\n{' after '.join([*loss, steps])}{next_command}"


def shortest_name(folder: RunFolder) -> str:
    """The name of the experiment where that stands for this run, or else the run's folder."""
    name = folder.path.parent.name
    with suppress(KitError):
        if find_run(name).folder.path.absolute() == folder.path.absolute():
            return name
    return str(folder)
