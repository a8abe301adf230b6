"""A user's mistake, told in sentences: where, which key, what came, what is allowed, the nearest name."""

from __future__ import annotations

import difflib
import re
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

SHOWN = 50  # faults of one error in its text; the rest is counted
LONGEST = {"location": 1000, "key": 200, "message": 4000}  # characters of each part of a fault in its text
# Controls of a terminal (C0 except tab and newline, DEL, C1), half surrogates, and what reverses the order of the
# characters around it (Boucher & Anderson 2021, arXiv:2111.00169).
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The same text with every character escaped that would steer a terminal; newlines and tabs stay.

    In the form that TOML and JSON share, so that escaped JSON is the same JSON.
    """
    return UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def shorten(text: str, most: int) -> str:
    """At most `most` characters of it, and how many there are."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


@dataclass(frozen=True)
class Fault:
    """One mistake. `place` is "file:line" or "command line"; `key` is dotted; both may be empty."""

    message: str
    key: str = ""
    location: str = ""

    def under(self, key: str, place: str) -> Fault:
        """The same fault, reported at the option that led to it; its own place stands in the message."""
        return Fault(": ".join(part for part in (self.location, self.key, self.message) if part), key, place)

    def __str__(self) -> str:
        """On a terminal, too: names and values may come from a stranger's file."""
        parts = {"location": self.location, "key": self.key, "message": self.message}
        shown = {name: printable(shorten(part, LONGEST[name])) for name, part in parts.items() if part}
        for name in shown.keys() - {"message"}:
            shown[name] = shown[name].replace("\n", "\\n").replace("\t", "\\t")
        return ": ".join(shown.values())


class KitError(Exception):
    """Something the user can mend. Carries every fault that its stage found; its text has a line for the first ones."""

    cause: ClassVar[str] = "refused"

    def __init__(self, *faults: Fault | str) -> None:
        self.faults = tuple(Fault(fault) if isinstance(fault, str) else fault for fault in faults)
        lines = [str(fault) for fault in self.faults[:SHOWN]]
        more = len(self.faults) - SHOWN
        super().__init__("\n".join([*lines, f"and {more:,} more"] if more > 0 else lines))


class Busy(KitError):
    """Another process works at what was asked for; the same command may succeed when that one has ended."""

    cause = "busy"


@contextmanager
def no_panic(place: str) -> Iterator[None]:
    """A panic of a library that is written in Rust, as a KitError: it is not an Exception, and ends the process.

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


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """The tail of a message about an unknown name: the likely one, then all of them."""
    names = sorted(allowed)
    close = difflib.get_close_matches(name, names, n=1)
    guess = f"; did you mean {close[0]!r}?" if close else "."
    return f"{guess} Allowed: {', '.join(names)}." if names else f"{guess} There are none."


def option_error(key: str, message: str) -> ValidationError:
    """For a component's validator: `raise fault("n_head", "...")` puts the message at that option's own line."""
    from pydantic import ValidationError  # here, so that listing components stays cheap
    from pydantic_core import InitErrorDetails, PydanticCustomError

    problem = PydanticCustomError("kit", "{message}", {"message": message})
    details = InitErrorDetails(type=problem, loc=tuple(key.split(".")), input=None)
    return ValidationError.from_exception_data(key, [details])
