"""The checkpoint of a run that a reference stands for."""

from __future__ import annotations

from pathlib import Path

from nanogpt_kit.checkpoint import store
from nanogpt_kit.checkpoint.manifest import find_damage
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.runs.find import FoundRun


def checkpoint_of_run(found: FoundRun) -> Path:
    """The checkpoint of the step that was named, or the newest whole one. Raises KitError."""
    if found.step is None:
        newest = store.newest_whole_checkpoint(found.folder.checkpoints)
        if newest is None:
            raise KitError(f"{found.folder} has no checkpoint yet")
        return newest
    checkpoint = found.folder.checkpoint(found.step)
    fault = find_damage(checkpoint)
    if fault:
        raise KitError(f"{checkpoint}: {fault}")
    return checkpoint
