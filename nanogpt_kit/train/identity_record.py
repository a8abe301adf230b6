"""Keeps the identity in a run's provenance that of the experiment that it now continues with."""

from __future__ import annotations

from typing import Any

from nanogpt_kit.core.code_identity import code_identity
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.data.manifest import DataManifest
from nanogpt_kit.data.yardsticks import compute_yardsticks
from nanogpt_kit.runs.folder import RunFolder


def update_identity(folder: RunFolder, experiment: Experiment, manifest: DataManifest, first_step: int) -> None:
    """Records configuration, code and yardsticks where a resumed run continues with others than it has recorded.

    Its last evaluation is made with the new ones. Where it has taken steps with others, its result is that of neither,
    so the record says where they changed; `first_step` is the step that it continues from.
    """
    before = folder.provenance()
    now: dict[str, Any] = {
        "configuration": experiment.configuration(),
        "code": code_identity(experiment),
        "yardsticks": compute_yardsticks(experiment, manifest),
    }
    if any(getattr(before, field) != value for field, value in now.items()):
        changed = {"changed_at_step": first_step} if first_step else {}
        folder.write_provenance(before.model_copy(update={**now, **changed}))
