"""Imports entry points of strangers, each in a separate process: it may raise, exit, crash or hang there.

What importing costs is measured in that process after `nanogpt_kit.api` and torch have been imported.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from nanogpt_kit.core import isolated_process
from nanogpt_kit.core.class_facts import class_facts
from nanogpt_kit.core.entry import Entry
from nanogpt_kit.core.errors import shorten
from nanogpt_kit.core.isolated_process import OUTPUT, READY, REQUEST, RESULT, TRACE
from nanogpt_kit.core.options import Component
from nanogpt_kit.system.folders import available_cores
from nanogpt_kit.system.process_session import kill_session

IMPORT_SECONDS = 10.0  # limit of an import by default
START_SECONDS = 120.0  # limit of what comes before it: a machine may be busy, and torch on a slow disk
GRACE_SECONDS = 2.0  # for the process to report where it hangs and to end by itself
POLL_SECONDS = 0.02
MAX_AT_ONCE = 4  # processes; each has torch in memory
MAX_OUTPUT = 2_000  # characters that are kept of what an import prints
FRAME = re.compile(r'^  File "(.+)", line (\d+) in ', re.MULTILINE)  # of faulthandler

Outcome = Literal["imported", "raised", "refused", "crashed", "timed out"]
Facts = Callable[[type[Component]], Any]


@dataclass(frozen=True)
class IsolatedImport:
    """What came of importing an entry point.

    `outcome`: "imported"; "raised": an exception, SystemExit and KeyboardInterrupt included; "refused": imported, and
    not a usable component; "crashed": the process ended, by a signal or by an exit; "timed out".
    """

    entry: Entry
    outcome: Outcome
    cause: str  # a sentence; empty where it was imported
    seconds: float | None  # of the import, beyond `nanogpt_kit.api` and torch; None where it did not end
    output: str  # the beginning of what it printed on stdout and stderr
    threads: int = 0  # that the import has started, and that still run
    facts: Any = None  # what `describe` returned, as JSON values


def import_isolated(
    entries: Sequence[Entry], seconds: float = IMPORT_SECONDS, describe: Facts = class_facts
) -> Iterator[IsolatedImport]:
    """Imports each entry point in a separate process, a few at once, and yields the results in their order.

    `seconds` is the limit of each import. `describe` is called there with the component's class, and returns JSON
    values; it is a function at the top level of a module. No process is left behind, also where this is interrupted.
    """
    waiting, running = deque(entries), deque[IsolatedProcess]()
    at_once = max(1, min(MAX_AT_ONCE, len(available_cores())))
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                running.append(IsolatedProcess(waiting.popleft(), seconds, describe))
            for process in running:
                process.poll()
            while running and running[0].result:
                yield running.popleft().result  # type: ignore[misc]
            time.sleep(POLL_SECONDS if running else 0.0)
    finally:
        for process in running:
            process.end()


class IsolatedProcess:
    """A process that imports one entry point; see `isolated_record` for its side."""

    def __init__(self, entry: Entry, seconds: float, describe: Facts) -> None:
        self.entry, self.seconds = entry, seconds
        self.result: IsolatedImport | None = None
        self.folder = Path(tempfile.mkdtemp(prefix="nanogpt-kit-import-"))
        request = {
            "entry": asdict(entry),
            "seconds": seconds,
            "path": [folder or os.getcwd() for folder in sys.path],
            "describe": [describe.__module__, describe.__name__],
        }
        (self.folder / REQUEST).write_text(json.dumps(request), encoding="utf-8")
        with (self.folder / OUTPUT).open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-P", isolated_process.__file__, str(self.folder)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a group of processes, which end together
            )
        self.deadline = time.monotonic() + START_SECONDS
        self.is_ready = False

    def poll(self) -> None:
        """Sets `result` once the process has ended or its time is up."""
        if self.result:
            return
        if not self.is_ready and (self.folder / READY).exists():
            self.is_ready, self.deadline = True, time.monotonic() + self.seconds + GRACE_SECONDS
        has_ended = self.process.poll() is not None
        if has_ended or time.monotonic() > self.deadline:
            kill_session(self.process)
            self.result = self.read_result(has_ended)
            shutil.rmtree(self.folder, ignore_errors=True)

    def read_result(self, has_ended: bool) -> IsolatedImport:
        output = self.read(OUTPUT)
        with contextlib.suppress(OSError, ValueError):
            record = json.loads((self.folder / RESULT).read_text(encoding="utf-8"))
            return IsolatedImport(self.entry, output=shorten(output, MAX_OUTPUT), **record)
        trace = self.read(TRACE)
        if not (self.folder / READY).exists():
            last = output.strip().rpartition("\n")[2]
            cause = f"the process for its import did not start{f': {last}' if last else ''}"
            return IsolatedImport(self.entry, "crashed", cause, None, "")
        if not has_ended or trace.startswith("Timeout"):
            cause = f"its import did not end within {self.seconds:g} s{place_of(trace)}"
            return IsolatedImport(self.entry, "timed out", cause, None, shorten(output, MAX_OUTPUT))
        cause = f"its import {end_text(self.process.returncode)}{place_of(trace)}"
        return IsolatedImport(self.entry, "crashed", cause, None, shorten(output, MAX_OUTPUT))

    def read(self, name: str) -> str:
        with contextlib.suppress(OSError):
            return (self.folder / name).read_bytes()[: 4 * MAX_OUTPUT].decode("utf-8", "backslashreplace")
        return ""

    def end(self) -> None:
        kill_session(self.process)
        shutil.rmtree(self.folder, ignore_errors=True)


def end_text(code: int) -> str:
    """How a process ended."""
    if code >= 0:
        return f"ended the process with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"ended the process by {signal.Signals(-code).name}"
    return f"ended the process by signal {-code}"


def place_of(trace: str) -> str:
    """The innermost line of Python in a trace of faulthandler, as " (file:line)"; empty where there is none."""
    frame = FRAME.search(trace)
    return f" ({frame[1]}:{frame[2]})" if frame else ""
