"""status.json: what a run reports of itself; and the record that a command leaves when it fails before it has a run.

Programs decide by the typed fields. `reason` is a sentence for people.
"""

from __future__ import annotations

import errno
import math
import os
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any, Literal, Self, cast, get_args

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from nanogpt_kit.core.errors import FAILURE, KitError, RunFailed
from nanogpt_kit.core.reading import read_bytes
from nanogpt_kit.core.writing import write_atomically
from nanogpt_kit.runs.secrets import hide_in_text

FORMAT = 1  # grows when a field changes its meaning
MOST_BYTES = 1 << 20  # of a record that is read
MOST_REASON = 100_000  # characters, each of up to six bytes in JSON
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # full, over a quota, or mounted read-only

State = Literal["running", "finished", "failed", "interrupted"]
EndedBy = Literal["steps", "max_tokens", "max_seconds", "callback", "signal", "fault"]
Cause = Literal[
    "oom",  # memory of the device or of the machine
    "not_finite",  # a loss, a gradient or a weight
    "busy",  # another process works at it
    "refused",  # a mistake in what was asked
    "lost_rank",  # another process of the run ended
    "disk",  # full, over a quota, or read-only
    "error",  # anything else that was raised
    # Found by who reads a status, and written by nobody:
    "died",  # the process ended without a word: killed, perhaps for lack of memory
    "unreadable",  # status.json is damaged
    "other_format",  # status.json is of another version of this program
]


class Unreadable(ValueError):
    """A record that is damaged, or of another format; `cause` says which of the two."""

    def __init__(self, message: str, cause: Cause = "unreadable") -> None:
        super().__init__(message)
        self.cause: Cause = cause


class Record(BaseModel):
    """A JSON object with a format version, written and read whole."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    format: Literal[1] = 1  # FORMAT

    @field_validator("reason", mode="before", check_fields=False)
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        """An error's words may hold a URL with its password, a file name that is not Unicode, or have no end."""
        if not isinstance(value, str):
            return value
        return hide_in_text(value.encode("utf-8", "backslashreplace").decode("utf-8")[:MOST_REASON])[:MOST_REASON]

    def write(self, path: Path) -> None:
        write_atomically(path, self.model_dump_json(indent=2, exclude_none=True) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises FileNotFoundError where there is none, Unreadable with a sentence where it is not such a record."""
        try:
            content = read_bytes(path, MOST_BYTES)
            values = pydantic_core.from_json(content)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise Unreadable(f"{path.name} cannot be read: {error.strerror or error}") from None
        except ValueError as error:
            raise Unreadable(f"{path.name} cannot be read: {error}") from None
        if not isinstance(values, dict):
            raise Unreadable(f"{path.name} cannot be read: it is not a JSON object")
        found = values.get("format")
        if type(found) is not int or found != FORMAT:
            named = f"is of format {str(found)[:20]}" if type(found) is int else "names no format"
            raise Unreadable(f"{path.name} {named}, and this version reads format {FORMAT}", "other_format")
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            key = ".".join(map(str, first["loc"]))
            raise Unreadable(f"{path.name} cannot be read: {key!r:.100}: {first['msg']}") from None


class Best(BaseModel):
    """The value of the metric that checkpoint.keep_best names, where it was best; None where that is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    step: int = Field(ge=0, lt=2**63)
    value: float | None = None

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Best | None:
        """From the step and the value, where there is one."""
        if not found:
            return None
        return cls(step=found["step"], value=found["value"] if math.isfinite(found["value"]) else None)


class Status(Record):
    """What status.json contains. Fields that are not known yet are left out there."""

    state: State
    time: float = Field(default_factory=time.time)  # of writing, in seconds since 1970
    ended_by: EndedBy | None = None  # None while it runs, and where its process ended without a word
    cause: Cause | None = None  # of what did not finish
    reason: str = ""  # for people
    origin: str = ""  # of a failure: see origin_of
    rank: int = Field(0, ge=0)  # of the process that reports a failure
    step: int = Field(0, ge=0, lt=2**63)
    total_steps: int = Field(0, ge=0, lt=2**63)
    seconds: float = Field(0.0, ge=0)  # spent in steps
    parameters: int | None = Field(None, ge=0)  # positions not counted
    compile: str | None = None  # mode
    best: Best | None = None
    imported: bool = False  # not trained here


class Failure(Record):
    """How a command failed, left for the process that started it."""

    cause: Cause
    reason: str = ""  # for people
    origin: str = ""


def leave_failure(error: BaseException) -> None:
    """Where the environment asks for it: how this command failed. Of several ranks the first to fail is recorded."""
    named = os.environ.get(FAILURE)
    if not named or Path(named).exists():
        return
    try:
        Failure(cause=cause_of(error), reason=str(error) or repr(error), origin=origin_of(error)).write(Path(named))
    except OSError:
        return  # its parent has the exit code


def cause_of(error: BaseException) -> Cause:
    """Why something failed: by the types and the errno of an error and of what led to it, never by its message."""
    own = error.cause if isinstance(error, KitError | RunFailed) else "error"
    if own in ("refused", "error") and any(
        isinstance(one, OSError) and one.errno in NO_ROOM for one in error_chain(error)
    ):
        return "disk"
    return cast(Cause, own) if own in get_args(Cause) else "error"  # a plugin may define errors


def origin_of(error: BaseException) -> str:
    """Type and place of the error that others followed from, "ValueError at mine.py:12", with the keys that a mistake
    names: the same for two runs that fail alike, whatever numbers their messages hold."""
    first = list(error_chain(error))[-1]
    frames = traceback.extract_tb(first.__traceback__)
    place = f" at {PurePath(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    keys = sorted({one.key for one in error.faults if one.key}) if isinstance(error, KitError) else []
    return ", ".join([f"{type(first).__name__}{place}", *keys])


def error_chain(error: BaseException) -> Iterator[BaseException]:
    """An error, then what it followed from: what it was raised from, or what was being handled."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__
