"""`python -m nanogpt_kit_trackio.writer FOLDER PROJECT`: the process that writes a run to trackio while it is trained.

It reads the files of the run folder, so that nothing waits for it. Where trackio fails, it reports that once on
standard error and tries again. It ends when its standard input does: with the status of the run as the last line, or
without one where the run was killed.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from pathlib import Path

POLL_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0  # after failures
LAST_TRIES = 3
FROM_ELSEWHERE = (
    "TRACKIO_SPACE_ID",
    "TRACKIO_SERVER_URL",
    "TRACKIO_DATASET_ID",
    "TRACKIO_BUCKET_ID",
    "TRACKIO_WEBHOOK_URL",
)
LOWEST_PRIORITY = 19


class Input:
    """Standard input, read in a thread. `ended` is set when the run has ended, however it did."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.status = "killed"
        threading.Thread(target=self.read, daemon=True).start()

    def read(self) -> None:
        for line in sys.stdin:
            self.status = line.strip() or self.status
        self.ended.set()


class Reports:
    """Failures, each reported once until something has worked again."""

    def __init__(self) -> None:
        self.failures = 0

    def attempt(self, act: Callable[[], None]) -> bool:
        try:
            act()
        except Exception as error:
            if not self.failures:
                self.print(f"trackio cannot be written: {type(error).__name__}: {error}; trying again")
            self.failures += 1
            return False
        if self.failures:
            self.print("trackio is written again; nothing is missing")
        self.failures = 0
        return True

    def print(self, sentence: str) -> None:
        with suppress(OSError):  # the run that reads it may be gone
            print(sentence, file=sys.stderr, flush=True)

    @property
    def pause_seconds(self) -> float:
        return min(POLL_SECONDS * 2.0**self.failures, LONGEST_PAUSE_SECONDS)


def write_run(folder: Path, project: str) -> bool:
    """Writes until the run ends. Returns whether all is written."""
    run, reports, parent = Input(), Reports(), os.getppid()
    from nanogpt_kit_trackio.mirror import Mirror  # after the thread has started, since it takes half a second

    mirror = Mirror(folder, project)
    is_equal = reports.attempt(lambda: mirror.reconcile("running"))
    while not run.ended.wait(reports.pause_seconds) and os.getppid() == parent:
        is_equal = reports.attempt(mirror.add_new if is_equal else lambda: mirror.reconcile("running"))
    return any(reports.attempt(lambda: mirror.reconcile(run.status)) for _ in range(LAST_TRIES))


def main() -> int:
    for variable in FROM_ELSEWHERE:
        os.environ.pop(variable, None)
    os.environ["HF_HUB_OFFLINE"] = "1"
    if hasattr(os, "nice"):
        os.nice(LOWEST_PRIORITY)
    folder, project = sys.argv[1:]
    with redirect_stdout(sys.stderr):
        try:
            return 0 if write_run(Path(folder), project) else 1
        except Exception as error:
            Reports().print(f"{type(error).__name__}: {error}")
            return 1


if __name__ == "__main__":
    os._exit(main())  # without waiting for the thread that reads
