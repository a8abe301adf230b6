"""The record of the choices that a run or a study computes with, made by measuring or by rules."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.machine_choices import MachineChoices
from nanogpt_kit.runs.record import Record, Unreadable

FILE_NAME = "machine_choices.json"


class ChoicesRecord(Record):
    """The candidate used for each task; see `core.machine_choices`."""

    max_bytes: ClassVar[int] = 1 << 22

    choices: dict[str, str]

    @classmethod
    def of_folder(cls, folder: Path) -> ChoicesRecord | None:
        """That of a run; None for one that was made before there were such records. Raises KitError if damaged."""
        try:
            return cls.read(folder / FILE_NAME)
        except FileNotFoundError:
            return None
        except Unreadable as error:
            raise KitError(
                f"{folder}: {error}; without it the run may continue with other roundings: remove it"
            ) from None


def recorded_choices(folder: Path) -> MachineChoices:
    """What a run continues with, on any machine; rules choose what it has not recorded, and nothing is measured."""
    record = ChoicesRecord.of_folder(folder)
    return MachineChoices(record.choices if record else {}, is_closed=True)


def record_choices(folder: Path) -> None:
    """Records what this process has used so far. Called by rank 0 before a run begins, and before each checkpoint, so
    that what follows a checkpoint can be computed again in the same way."""
    before = ChoicesRecord.of_folder(folder)
    used = {**(before.choices if before else {}), **MachineChoices.current().used}
    record = ChoicesRecord(choices=dict(sorted(used.items())))
    if record != before:
        record.write(folder / FILE_NAME)
