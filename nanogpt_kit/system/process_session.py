"""Processes that lead a session, as `subprocess.Popen(..., start_new_session=True)` starts them."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from typing import Any


def kill_session(process: subprocess.Popen[Any]) -> None:
    """Kills a process that leads its session, and those that it started; also where it has ended before them."""
    with suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()
