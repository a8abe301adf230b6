"""sweep.json: what a sweep's folder needs besides its study to be read without the experiment's file.

The study has the experiment and the trials. This record has the [sweep] table, and where the study is stored; of a
storage's URL never the password.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

import optuna
from optuna.storages import BaseStorage
from pydantic import ValidationError

from nanogpt_kit.core.errors import KitError, shorten
from nanogpt_kit.core.sections import Sweep
from nanogpt_kit.runs.record import AnyText, NamesRecord, Unreadable
from nanogpt_kit.runs.secrets import hide_password
from nanogpt_kit.sweep.study.plan import LOCAL_STORAGES
from nanogpt_kit.sweep.study.storage import STORAGE_KEY, is_journal, open_storage, report_storage_failure
from nanogpt_kit.sweep.study.stored_summary import read_summary
from nanogpt_kit.sweep.study.summary import SweepSummary

FILE_NAME = "sweep.json"
SQLITE = "sqlite:///"


class SweepRecord(NamesRecord):
    """A sweep as the newest command on its folder had it."""

    max_bytes: ClassVar[int] = 1 << 24  # choices of a space may be many

    name: str  # of its study
    storage: AnyText  # without password
    has_password: bool = False  # whether `storage` lacks one
    options: dict[str, Any]  # of [sweep], as JSON, without `storage`


def write_sweep_record(name: str, options: Sweep, folder: Path) -> None:
    """Writes sweep.json into the sweep's folder."""
    hidden = hide_password(options.storage)
    has_password = hidden != options.storage
    record = SweepRecord(
        name=name,
        storage=hidden if has_password else absolute_storage(options.storage),
        has_password=has_password,
        options=options.model_dump(mode="json", exclude={"storage"}),
    )
    record.write(folder / FILE_NAME)


def absolute_storage(storage: str) -> str:
    """The same storage for a command in another folder; those in the sweep's folder move with it."""
    if storage in LOCAL_STORAGES:
        return storage
    if is_journal(storage):
        return os.path.abspath(storage)
    path = storage.removeprefix(SQLITE)
    return f"{SQLITE}{os.path.abspath(path)}" if path != storage and "?" not in path else storage


def read_sweep_folder(folder: Path, storage: str | None = None) -> tuple[SweepSummary, optuna.Study, Path]:
    """The results of a sweep so far, its study and its folder, without the experiment's file. Nothing is changed.

    `storage` replaces the recorded one, which has no password. Raises KitError if no sweep has begun there, or if its
    study cannot be read.
    """
    folder = folder.absolute()
    record = read_record(folder / FILE_NAME)
    if storage is None and record.has_password:
        raise KitError(
            f"the study of the sweep in {folder} is in {record.storage}, whose password is not recorded; set "
            "NANOGPT_KIT_STORAGE to the whole URL"
        )
    options = recorded_sweep(record, storage or record.storage, folder)
    opened: BaseStorage = open_storage(options.storage, folder, for_reading=True)
    with report_storage_failure(STORAGE_KEY, options.storage):
        summary = read_summary(record.name, options, opened)
        return summary, optuna.load_study(study_name=record.name, storage=opened), folder


def read_record(path: Path) -> SweepRecord:
    try:
        return SweepRecord.read(path)
    except (FileNotFoundError, NotADirectoryError):
        raise KitError(f"there is no {path}: no sweep has begun in that folder") from None
    except Unreadable as error:
        raise KitError(f"{path.parent}: {error}; the command of the sweep writes it again") from None


def recorded_sweep(record: SweepRecord, storage: str, folder: Path) -> Sweep:
    try:
        return Sweep.model_validate({**record.options, "storage": storage})
    except (ValidationError, KitError) as error:
        reason = shorten(" ".join(str(error).split()), 200)
        raise KitError(
            f"{folder / FILE_NAME} has options that cannot be read ({reason}); the command of the sweep writes it again"
        ) from None
