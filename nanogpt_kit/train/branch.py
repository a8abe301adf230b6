"""A new run that begins from a checkpoint of another one, with its whole training state.

Trained for more steps it equals, bit for bit, the run that was made for them from the start. The other run stays as it
is.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from nanogpt_kit.checkpoint import store
from nanogpt_kit.checkpoint.manifest import Manifest, find_damage, step_of
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.provenance import BranchedFrom
from nanogpt_kit.runs.resume_command import resume_command
from nanogpt_kit.system.writing import sync_file


@dataclass(frozen=True)
class BranchPoint:
    """A checkpoint of a run from which a new run begins."""

    folder: RunFolder
    step: int

    @property
    def checkpoint(self) -> Path:
        return self.folder.checkpoint(self.step)

    def check(self, before: Experiment, requested: Experiment) -> None:
        """Raises KitError where no run of `requested` can begin here; `before` is that of the checkpoint's run."""
        if not self.checkpoint.exists():
            steps = ", ".join(str(step_of(saved)) for saved in store.list_checkpoints(self.folder.checkpoints))
            raise KitError(f"{self.folder} has no checkpoint of step {self.step}; there are: {steps or 'none'}")
        if damage := find_damage(self.checkpoint):
            raise KitError(f"the checkpoint {self.checkpoint} is damaged: {damage}")
        seconds = before.train.max_seconds, requested.train.max_seconds
        if requested.total_steps == before.total_steps and seconds[0] == seconds[1]:
            command = resume_command(self.folder, "--extend", "STEPS", step=self.step)
            needs = f"{self.folder}@{self.step} needs the number of further steps"
            raise KitError(
                f"{needs}; a new run from step {self.step}: {command}; the run itself: {resume_command(self.folder)}"
            )
        if requested.total_steps <= self.step:
            expected = f"should be more than {self.step}, the step to begin from"
            raise KitError(f"train.steps {expected}, got {requested.total_steps}")

    def origin(self) -> BranchedFrom:
        return BranchedFrom(checkpoint=str(self.checkpoint), sha256=Manifest.read(self.checkpoint).weights_hash)

    def copy_into(self, folder: RunFolder) -> None:
        """Copies the checkpoint, the metrics and the samples; the run removes those after its step. Raises OSError."""
        copy = folder.checkpoints / self.checkpoint.name
        shutil.copytree(self.checkpoint, copy)
        for file in copy.rglob("*"):
            if file.is_file():
                sync_file(file)
        for source, target in ((self.folder.metrics, folder.metrics), (self.folder.samples, folder.samples)):
            if source.exists():
                shutil.copyfile(source, target)
