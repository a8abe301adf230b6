"""Metrics, options and samples in trackio, a local-first experiment tracker: one SQLite file for each project.

A separate process reads metrics.jsonl and samples.txt of the run folder and writes them to trackio. The training never
waits for it and passes it nothing, so that a tracker that is slow, hangs or dies costs no step and loses no point; and
a run that was killed and resumed has each point once. `trackio show` opens the dashboard.

Source: trackio 0.43, https://github.com/gradio-app/trackio.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import weakref
from contextlib import suppress

from nanogpt_kit.api import Callback, Field, LiveRun, hookimpl

logger = logging.getLogger("nanogpt_kit.trackio")  # below the kit's, so that its console prints the lines
CATCH_UP = "its metrics are in metrics.jsonl, and `nanogpt-kit trackio {}` writes them"


class Trackio(Callback):
    is_tracker = True

    project: str = Field("", description="project in trackio; empty: the name of the experiment")
    wait_seconds: float = Field(10.0, ge=0, description="longest wait for trackio at the end of a run, in seconds")

    def build(self, run: LiveRun) -> object:
        return Tracker(self)


class Tracker:
    """Starts the process, reports what it prints, and hands it the status of the run at the end."""

    def __init__(self, options: Trackio) -> None:
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None

    @hookimpl
    def run_started(self, run: LiveRun) -> None:
        command = [sys.executable, "-P", "-m", "nanogpt_kit_trackio.writer", str(run.path), self.options.project]
        # A separate session, so that Ctrl-C does not reach it, and a kill of the run's process group neither
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self.process.stderr is not None
        os.set_blocking(self.process.stderr.fileno(), False)
        weakref.finalize(self, leave, self.process).atexit = False

    @hookimpl
    def logged(self, run: LiveRun) -> None:
        if self.process is None:
            return
        log_output(self.process)
        if self.process.poll() is not None:
            ended = f"the process that writes to trackio has ended with exit code {self.process.returncode}"
            logger.warning("%s; %s", ended, CATCH_UP.format(run.path))
            self.process = None

    @hookimpl
    def run_finished(self, run: LiveRun, status: str) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        assert process.stdin is not None
        code: int | None = None
        with suppress(subprocess.TimeoutExpired):
            with suppress(BrokenPipeError):  # it has ended
                process.stdin.write(f"{status}\n".encode())
                process.stdin.close()
            code = process.wait(self.options.wait_seconds)
        log_output(process)
        if code is None:
            logger.warning("trackio is still being written by process %d; %s", process.pid, CATCH_UP.format(run.path))
        elif code:
            logger.warning("not all of the run is in trackio; %s", CATCH_UP.format(run.path))


def log_output(process: subprocess.Popen[bytes]) -> None:
    """Logs what the process has printed, without waiting for more."""
    assert process.stderr is not None
    for line in (process.stderr.read() or b"").decode("utf-8", "replace").splitlines():
        logger.warning("%s", line)


def leave(process: subprocess.Popen[bytes]) -> None:
    """Closes the pipes to the process, which ends by itself; a thread collects its exit code."""
    for pipe in (process.stdin, process.stderr):
        with suppress(OSError):
            if pipe is not None:
                pipe.close()
    threading.Thread(target=process.wait, daemon=True).start()
