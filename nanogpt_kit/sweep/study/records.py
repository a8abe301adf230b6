"""What a study stores about a trial: typed records with a format version. Only this module reads trial attributes.

Each record is a single attribute, since every write to a database takes its time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, Self

import optuna
from optuna.trial import FrozenTrial
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nanogpt_kit.comparison.record import Measurement
from nanogpt_kit.core.errors import KitError, shorten
from nanogpt_kit.runs.status import Cause, EndedBy

FORMAT = 1  # of the records and of a study's attributes; increased when the meaning of one changes

Ending = Literal["complete", "pruned"] | Cause  # of a trial


@contextmanager
def report_damage(study: str, storage_key: str) -> Iterator[None]:
    """Raises KitError for attributes of a study that are not as this version stores them."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        reason = shorten(" ".join(str(error).split()), 200)
        raise KitError(
            f"the study {study!r} in {storage_key} cannot be read ({type(error).__name__}: {reason}); it is damaged, "
            f"or was written by another version of nanogpt-kit: set another {storage_key}"
        ) from None


class TrialRecord(BaseModel):
    """One attribute of a trial."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    attribute: ClassVar[str]

    format: Literal[1] = 1  # FORMAT

    @classmethod
    def of(cls, trial: optuna.Trial | FrozenTrial) -> Self | None:
        """None where the trial has no such record. Raises KitError where it is damaged or of another format."""
        stored = trial.user_attrs.get(cls.attribute)
        if stored is None:
            return None
        try:
            return cls.model_validate(stored)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            key = ".".join(map(str, (cls.attribute, *first["loc"])))
            reason = shorten(f"{key}: {first['msg']}", 200)
            raise KitError(
                f"the study in sweep.storage has a trial {trial.number} whose record cannot be read ({reason}); it is "
                "damaged, or was written by another version: set another sweep.storage"
            ) from None

    def stored(self) -> dict[str, Any]:
        """The value of the attribute."""
        return self.model_dump(exclude_none=True)

    def store(self, trial: optuna.Trial) -> None:
        trial.set_user_attr(self.attribute, self.stored())


class Owner(TrialRecord):
    """The controller that runs a trial, by its sweep folder, and the time of its last heartbeat."""

    attribute = "owner"

    folder: str
    folder_id: str | None  # distinguishes folders of the same path on two machines
    seen: float  # seconds since 1970


class FreshSeed(TrialRecord):
    """A trial of a confirmation: the values of the sweep's trial `trial`, with a seed that no trial was chosen by."""

    attribute = "confirms"

    trial: int
    seed: int


class CellRecord(TrialRecord):
    """A trial of a comparison: a run with a seed of what has an identity, see `cells.Cell`."""

    attribute = "cell"

    identity: str
    seed: int
    generation: int
    run: str  # name of its folder


class StudyRecord(TrialRecord):
    """One attribute of a study; where it is absent, its fields have their defaults."""

    @classmethod
    def of_study(cls, study: optuna.Study) -> Self:
        return cls.model_validate(study.user_attrs.get(cls.attribute, {}))

    def store_in(self, study: optuna.Study) -> None:
        study.set_user_attr(self.attribute, self.stored())


class Generation(StudyRecord):
    """The newest `--again` of a comparison, counted from 1; 0 before the first."""

    attribute = "generation"

    index: int = 0
    is_open: bool = False  # until its comparison is recorded


class SeedsLook(BaseModel):
    """A judgement of the trials of a confirmation."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    count: int  # of seeds of each trial
    is_whole: bool = True  # all seeds had ended


class JudgedSeeds(StudyRecord):
    """With how many seeds the trials of a confirmation were judged, in order."""

    attribute = "judged_seeds"

    looks: tuple[SeedsLook, ...] = Field((), strict=False)  # a list in JSON


class NotComparable(StudyRecord):
    """Why `compare` would refuse some trials of a search against trial 0."""

    attribute = "not_comparable"

    reasons: dict[str, str] = {}  # by the index of the trial


class TrialResult(TrialRecord):
    """How a trial ended. Its metric is the value of Optuna's trial."""

    attribute = "result"

    cause: Ending
    reason: str = ""  # for people
    step: int = 0  # of its last run
    tokens: int = 0  # over all its runs, as are the seconds in steps
    seconds: float = 0.0
    values: tuple[float | None, ...] = Field((), strict=False)  # one for each seed if there are several; JSON has lists
    parameters: int | None = None
    ended_by: EndedBy | None = None
    threads: int | None = None  # train.threads of its runs
    measurement: Measurement | None = None  # of its run, in a comparison
    files: dict[str, str] = {}  # of that run, by name: its records, which are read where a comparison is judged
