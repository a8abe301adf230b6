"""Errors, and faults: a user's mistake with its location, its key, what is allowed, and the nearest name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from pydantic import ValidationError

Key = tuple[str | int, ...]  # the parts of a dotted key: ("callback", 0, "every_steps")

# Exit codes of the command. UNDECIDED and WORSE are verdicts of a comparison, for which DONE means better. BUSY is
# EX_TEMPFAIL of sysexits.h: the same command may succeed later.
DONE, FAILED, MISTAKE, UNDECIDED, WORSE, BUSY, INTERRUPTED = 0, 1, 2, 3, 4, 75, 130

FAILURE = "NANOGPT_KIT_FAILURE"  # environment: the file in which a command that fails leaves a record of it

MAX_SHOWN = 50  # faults in the text of an error; the others are counted
MAX_CHARACTERS = {"location": 1000, "key": 200, "message": 4000}  # of each part of a fault in its text
# Terminal controls (C0 except tab and newline, DEL, C1), lone surrogates, and characters that reverse the order of
# those around them (Boucher & Anderson 2021, arXiv:2111.00169).
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """`text` with every character that would control a terminal escaped; newlines and tabs stay.

    The escapes are those of TOML and JSON, so escaped JSON is the same JSON.
    """
    return UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def shorten(text: str, limit: int) -> str:
    """The first `limit` characters of a longer text, followed by its length."""
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text):,} characters)"


@dataclass(frozen=True)
class Fault:
    """One mistake. `location` is "file:line" or "command line"; `key` is dotted; both may be empty."""

    message: str
    key: str = ""
    location: str = ""

    def reported_at(self, key: str, location: str) -> Fault:
        """The same fault, reported at the option that led to it; the location of the fault moves into the message."""
        return Fault(": ".join(part for part in (self.location, self.key, self.message) if part), key, location)

    def __str__(self) -> str:
        """Safe to print on a terminal: names and values may come from somebody else's file."""
        parts = {"location": self.location, "key": self.key, "message": self.message}
        shown = {name: printable(shorten(part, MAX_CHARACTERS[name])) for name, part in parts.items() if part}
        for name in shown.keys() - {"message"}:
            shown[name] = shown[name].replace("\n", "\\n").replace("\t", "\\t")
        return ": ".join(shown.values())


def notes_of(error: BaseException) -> list[str]:
    """The notes of an exception: what a user can do next, as lines to print after its message."""
    return list(getattr(error, "__notes__", ()))


class WithoutTraceback(Exception):
    """An exception whose message says all, so that a notebook shows no traceback."""

    def _render_traceback_(self) -> list[str]:
        """What IPython prints for it."""
        return [f"{type(self).__name__}: {self}", *notes_of(self)]


class KitError(WithoutTraceback):
    """A mistake the user can correct. Carries every fault its stage found; its text shows the first ones."""

    cause: ClassVar[str] = "refused"

    def __init__(self, *faults: Fault | str) -> None:
        self.faults = tuple(Fault(fault) if isinstance(fault, str) else fault for fault in faults)
        lines = [str(fault) for fault in self.faults[:MAX_SHOWN]]
        more = len(self.faults) - MAX_SHOWN
        super().__init__("\n".join([*lines, f"and {more:,} more"] if more > 0 else lines))


class Busy(KitError):
    """Another process is using the run or folder; the same command may succeed once that process has ended."""

    cause = "busy"


@contextmanager
def catch_rust_panic(location: str) -> Iterator[None]:
    """Raises a KitError for a panic in a Rust library, which is not an Exception and would end the process.

    `location` names what the library was reading, such as a file.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # each library has its own class of this name, and exports none
            raise
        raise KitError(f"{location}: the library that reads it failed: {error}") from None


class RunFailed(Exception):
    """A run that could not continue, such as a loss that is not finite or a callback that raised."""

    cause: ClassVar[str] = "error"  # for programs; one of `runs.status.Cause`


class OutOfMemory(RunFailed, WithoutTraceback):
    """The device or the machine ran out of memory."""

    cause = "oom"


class NotFinite(RunFailed, WithoutTraceback):
    """A loss, a gradient, a weight, a state or a metric is infinite or NaN."""

    cause = "not_finite"


class LostRank(RunFailed):
    """Another process of the run has ended; that process reports why."""

    cause = "lost_rank"
    terminated = False  # a signal came, too: what started the processes ends this one, since another one has failed


def dotted(key: Key) -> str:
    return ".".join(str(part) for part in key)


def key_parts(dotted_key: str) -> Key:
    """The parts of a dotted key; those that are numbers are indices."""
    return tuple(int(part) if part.isdecimal() else part for part in dotted_key.split("."))


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest name, then all of them."""
    names = sorted(allowed)
    by_lower = {known.lower(): known for known in names}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f"{f'; did you mean {by_lower[close[0]]!r}?' if close else '.'}{allowed_text(names)}"


def allowed_text(allowed: Iterable[str]) -> str:
    """The last sentence of a message about an unknown name."""
    names = ", ".join(sorted(allowed))
    return f" Allowed: {names}." if names else " None is available."


def option_error(key: str, message: str, *partners: str) -> ValidationError:
    """For a component's validator: `raise option_error("n_head", "...")` reports the message at that option's line.

    `partners` are the other options of a relation such as "n_embd should be a multiple of n_head". The fault is
    reported at the option that was written last: on the command line, else in the file, else in the file it extends;
    at `key` among equals. The message should name the options and their values, to read well at each.
    """
    from pydantic import ValidationError  # imported here, so that listing components stays fast
    from pydantic_core import InitErrorDetails, PydanticCustomError

    problem = PydanticCustomError("kit", "{message}", {"message": message, "key": key, "partners": partners})
    details = InitErrorDetails(type=problem, loc=key_parts(key), input=None)
    return ValidationError.from_exception_data(key, [details])
