"""test.json in a run folder: each time that the test split was opened for a checkpoint, and what was measured."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.record import AnyText, Record, RecordPart, Unreadable

OPENED_TEST = "test.json"


class OpenedTest(RecordPart):
    """What the evaluators measured on the test split."""

    time: float  # seconds since 1970
    step: int  # of the checkpoint
    weights: str  # SHA-256 of the checkpoint's
    used: AnyText = ""  # the callback whose weights were used, as in the run's own evaluations; "": the trained ones
    metrics: dict[str, float | None]  # None: not finite
    yardsticks: dict[str, str]  # by metric


class OpenedTests(Record):
    """The content of test.json."""

    max_bytes: ClassVar[int] = 1 << 24

    openings: Annotated[tuple[OpenedTest, ...], Field(strict=False)]  # JSON has lists


def read_opened_tests(folder: RunFolder) -> tuple[OpenedTest, ...]:
    """The openings of a run, the newest last. Raises KitError where the record is damaged."""
    try:
        return OpenedTests.read(folder.path / OPENED_TEST).openings
    except FileNotFoundError:
        return ()
    except Unreadable as error:
        raise KitError(f"{folder}: {error}") from None


def add_opened_test(folder: RunFolder, opened: OpenedTest) -> None:
    OpenedTests(openings=(*read_opened_tests(folder), opened)).write(folder.path / OPENED_TEST)
