"""A user's mistake, told in sentences: where, which key, what came, what is allowed, the nearest name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from pydantic import ValidationError

Key = tuple[str | int, ...]  # a dotted key, taken apart: ("callback", 0, "every_steps")

# Exit codes of the command. BUSY is EX_TEMPFAIL of sysexits.h: the same command may succeed later.
DONE, FAILED, MISTAKE, BUSY, INTERRUPTED = 0, 1, 2, 75, 130

FAILURE = "NANOGPT_KIT_FAILURE"  # environment: the file in which a command that fails leaves a record of it


@dataclass(frozen=True)
class Fault:
    """One mistake. `place` is "file:line" or "command line"; `key` is dotted; both may be empty."""

    message: str
    key: str = ""
    place: str = ""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.place, self.key, self.message) if part)


class KitError(Exception):
    """Something the user can mend. Carries every fault that its stage found, one line each."""

    cause: ClassVar[str] = "refused"

    def __init__(self, *faults: Fault | str) -> None:
        self.faults = tuple(Fault(fault) if isinstance(fault, str) else fault for fault in faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


class Busy(KitError):
    """Another process works at what was asked for; the same command may succeed when that one has ended."""

    cause = "busy"


@contextmanager
def no_panic(place: str) -> Iterator[None]:
    """A panic of a library that is written in Rust, as a KitError: to Python it is no Exception, and ends the process.

    `place` is what the library was working on, such as a file.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # each library has a class of this name, and exports none
            raise
        raise KitError(f"{place} makes its library fail: {error}") from None


class RunFailed(Exception):
    """A run that could not go on: a loss that is no number, a callback that raised. Not the command's fault."""

    cause: ClassVar[str] = "error"  # one of `runs.status.Cause`, for programs


class OutOfMemory(RunFailed):
    """Of the device, or of the machine."""

    cause = "oom"


class NotFinite(RunFailed):
    """A loss, a gradient, a weight, a state or a metric that is infinite or NaN."""

    cause = "not_finite"


class LostRank(RunFailed):
    """Another process of the run has ended, and knows better why."""

    cause = "lost_rank"


def dotted(key: Key) -> str:
    return ".".join(str(part) for part in key)


def nearest(name: str, allowed: Iterable[str]) -> str:
    """The tail of a message about an unknown name: the likely one, then all of them."""
    names = sorted(allowed)
    close = difflib.get_close_matches(name, names, n=1)
    guess = f"; did you mean {close[0]!r}?" if close else "."
    return f"{guess} Allowed: {', '.join(names)}." if names else f"{guess} There are none."


def fault(key: str, message: str) -> ValidationError:
    """For a component's validator: `raise fault("n_head", "...")` puts the message at that option's own line."""
    from pydantic import ValidationError  # here, so that listing components stays cheap
    from pydantic_core import InitErrorDetails, PydanticCustomError

    problem = PydanticCustomError("kit", "{message}", {"message": message})
    details = InitErrorDetails(type=problem, loc=tuple(key.split(".")), input=None)
    return ValidationError.from_exception_data(key, [details])
