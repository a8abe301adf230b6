"""Whether the sweep, or the comparison, that a run is a trial of has ended; read from its folder alone."""

from __future__ import annotations

from pathlib import Path

from optuna.trial import FrozenTrial

from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.sweep.study.records import CellRecord
from nanogpt_kit.sweep.study.storage import open_storage

FILES = {"study.journal": "journal", "study.db": "sqlite"}  # of storages in the folder, and their names


def unfinished_trials(folder: Path) -> int | None:
    """How many trials of the studies in a folder have not ended; None where its storage is elsewhere.

    Raises KitError where the storage cannot be read.
    """
    found = [storage for name, storage in FILES.items() if (folder / name).is_file()]
    if not found:
        return None
    count = 0
    for name in found:
        storage = open_storage(name, folder, for_reading=True)
        for study in storage.get_all_studies():
            trials = storage.get_all_trials(study._study_id, deepcopy=False)
            planned = storage.get_study_user_attrs(study._study_id).get("count", len(trials))
            count += max(0, int(planned) - sum(has_ended(trial, folder) for trial in trials))
    return count


def has_ended(trial: FrozenTrial, folder: Path) -> bool:
    """The run of a comparison may have finished just before a kill: then it answers, and its trial stays as it is."""
    record = CellRecord.of(trial)
    run = RunFolder(folder / record.run) if record else None
    return trial.state.is_finished() or (run is not None and run.status().state == "finished")
