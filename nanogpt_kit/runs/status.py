"""status.json, the state of a run; and the record of a command that fails before it has a run folder.

Programs should read the typed fields; `reason` is a sentence for people.
"""

from __future__ import annotations

import errno
import math
import os
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, cast, get_args

from pydantic import BeforeValidator, Field

from nanogpt_kit.core.errors import FAILURE, KitError, RunFailed
from nanogpt_kit.runs.record import Record, RecordPart
from nanogpt_kit.runs.secrets import hide_in_text

MAX_REASON = 100_000  # characters, each of up to six bytes in JSON
DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # full, over a quota, or mounted read-only

State = Literal["running", "finished", "failed", "interrupted"]
EndedBy = Literal["steps", "max_tokens", "max_seconds", "callback", "signal", "fault"]
Cause = Literal[
    "oom",  # memory of the device or of the machine
    "not_finite",  # a loss, a gradient or a weight
    "busy",  # another process uses the run
    "refused",  # a mistake of the user
    "lost_rank",  # another process of the run ended
    "disk",  # full, over a quota, or read-only
    "error",  # anything else that was raised
    # Assigned by readers of a status, never written:
    "died",  # the process exited without reporting a status: killed, perhaps for lack of memory
    "unreadable",  # status.json is damaged
    "other_format",  # another version of this program wrote status.json
]


def sanitize_reason(value: Any) -> Any:
    """A message as UTF-8 without passwords, at most MAX_REASON characters long."""
    if not isinstance(value, str):
        return value
    return hide_in_text(value.encode("utf-8", "backslashreplace").decode("utf-8")[:MAX_REASON])[:MAX_REASON]


Reason = Annotated[str, BeforeValidator(sanitize_reason)]


class Best(RecordPart):
    """The best value of the metric that checkpoint.keep_best names; None where it is not finite."""

    step: int = Field(ge=0, lt=2**63)  # at which it was evaluated
    value: float | None = None  # of the metric

    @classmethod
    def of(cls, best: Mapping[str, Any]) -> Best | None:
        """From the step and the value, where there is one."""
        if not best:
            return None
        return cls(step=best["step"], value=best["value"] if math.isfinite(best["value"]) else None)


class Status(Record):
    """status.json. Fields without a value yet are left out."""

    state: State  # a run whose process was killed is still "running"; its lock shows that it is not
    time: float = Field(default_factory=time.time)  # of writing, in seconds since 1970
    ended_by: EndedBy | None = None  # None while it runs, and where its process was killed
    cause: Cause | None = None  # why a run did not finish
    reason: Reason = ""  # for people
    origin: str = ""  # of a failure: see origin_of
    rank: int = Field(0, ge=0)  # the process that reports a failure
    step: int = Field(0, ge=0, lt=2**63)  # optimizer updates done
    total_steps: int = Field(0, ge=0, lt=2**63)  # planned, or 0 where that is not known
    seconds: float = Field(0.0, ge=0)  # spent in steps
    parameters: int | None = Field(None, ge=0)  # of the model
    trained_parameters: int | None = Field(None, ge=0)  # of them; the others are frozen
    compile: str | None = None  # mode
    best: Best | None = None  # evaluation so far
    imported: bool = False  # not trained by this program


def parameters_text(count: int, trained: int | None) -> str:
    """ "10,536 parameters", or "10,536 parameters, of which 3,312 are trained" where others are frozen."""
    return f"{count:,} parameters" + ("" if trained in (None, count) else f", of which {trained:,} are trained")


class Failure(Record):
    """How a command failed, recorded for the process that started it."""

    cause: Cause
    reason: Reason = ""  # for people
    origin: str = ""


def record_failure(error: BaseException) -> None:
    """Writes the file that FAILURE names, if it is set. Among several ranks the first failure is recorded."""
    path = os.environ.get(FAILURE)
    if not path or Path(path).exists():
        return
    try:
        Failure(cause=cause_of(error), reason=str(error) or repr(error), origin=origin_of(error)).write(Path(path))
    except OSError:
        return  # the parent still has the exit code


def cause_of(error: BaseException) -> Cause:
    """The cause of a failure by the type and errno of an error and of those that led to it, never by a message."""
    own = error.cause if isinstance(error, KitError | RunFailed) else "error"
    if own in ("refused", "error") and any(
        isinstance(link, OSError) and link.errno in DISK_ERRNOS for link in error_chain(error)
    ):
        return "disk"
    return cast(Cause, own) if own in get_args(Cause) else "error"  # a plugin may define errors


def origin_of(error: BaseException) -> str:
    """Type and location of the first error of a chain, "ValueError at mine.py:12", and the keys of its faults.

    It is the same for two runs that fail in the same way, whatever numbers their messages contain.
    """
    first = list(error_chain(error))[-1]
    frames = traceback.extract_tb(first.__traceback__)
    location = f" at {PurePath(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    keys = sorted({fault.key for fault in error.faults if fault.key}) if isinstance(error, KitError) else []
    return ", ".join([f"{type(first).__name__}{location}", *keys])


def error_chain(error: BaseException) -> Iterator[BaseException]:
    """An error, then the error that it was raised from or while handling, and so on."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__
