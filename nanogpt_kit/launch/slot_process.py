"""Runs a command of the kit as a child process that uses only a machine slot."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from nanogpt_kit.core.errors import FAILURE
from nanogpt_kit.launch.processes import PARENT, import_path, kit_command
from nanogpt_kit.launch.slots import MachineSlot
from nanogpt_kit.runs.record import Unreadable
from nanogpt_kit.runs.status import Failure
from nanogpt_kit.system.process_session import kill_session

LOG_TAIL_BYTES = 20_000  # of a process's log, in which its last line is looked for


class SlotProcess:
    """`python -m nanogpt_kit ARGUMENTS` in a slot. It ends with this process, even if this one is killed."""

    def __init__(
        self, arguments: Sequence[str], slot: MachineSlot, log: Path, variables: Mapping[str, str] | None = None
    ) -> None:
        """`variables` are added to its environment."""
        self.log = log
        self.log_start = log.stat().st_size if log.exists() else 0
        self.failure_file = log.with_suffix(".failure.json")
        self.failure_file.unlink(missing_ok=True)  # of an earlier process
        kit = {"PYTHONPATH": import_path(), FAILURE: str(self.failure_file), PARENT: str(os.getpid())}
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                kit_command(arguments),
                env={**os.environ, **kit, **(variables or {}), **slot.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C reaches it from here, once
            )
        if slot.cores and hasattr(os, "sched_setaffinity"):
            with suppress(OSError):  # it has ended already
                os.sched_setaffinity(self.process.pid, slot.cores)  # before it has threads, which inherit it

    def poll(self) -> int | None:
        return self.process.poll()

    def terminate(self) -> None:
        """Asks the process to save and end."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kills the process and those that it started."""
        kill_session(self.process)

    def failure(self) -> Failure | None:
        """The record that the process left when it failed; None if there is none."""
        try:
            return Failure.read(self.failure_file)
        except (FileNotFoundError, Unreadable):
            return None

    def last_line(self) -> str:
        """The last line of its log, for people."""
        with self.log.open("rb") as file:
            file.seek(max(self.log_start, self.log.stat().st_size - LOG_TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else ""
