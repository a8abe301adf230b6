"""Reports the progress of a preparation: a bar on a terminal, otherwise a log line every few seconds."""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import Any

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_UPDATES = 0.1  # of a bar: documents may be short


class ProgressReport:
    """The progress of one activity; `total_bytes` is None where it is not known."""

    def __init__(self, total_bytes: int | None, activity: str) -> None:
        import rich

        self.total_bytes, self.activity = total_bytes, activity
        self.bytes_read = 0
        self.bytes_processed = 0  # excluding those that an earlier preparation processed
        self.started = self.shown_at = time.monotonic()
        self.bar = make_progress_bar(total_bytes, activity) if rich.get_console().is_interactive else None

    def __enter__(self) -> ProgressReport:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.stop()

    def add(self, size: int, processed: bool) -> None:
        """Counts bytes that were processed or, with `processed` False, found on disk."""
        self.bytes_read += size
        self.bytes_processed += size if processed else 0
        now = time.monotonic()
        if now - self.shown_at < (SECONDS_BETWEEN_LINES if self.bar is None else SECONDS_BETWEEN_UPDATES):
            return
        self.shown_at = now
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=self.bytes_read, speed=self.speed(now))
        else:
            of = f" of {self.total_bytes / 1e6:,.0f}" if self.total_bytes else ""
            logger.info("%s: %s%s MB, %s", self.activity, f"{self.bytes_read / 1e6:,.0f}", of, self.speed(now))

    def speed(self, now: float) -> str:
        """MB/s, and the remaining time."""
        rate = self.bytes_processed / max(now - self.started, 1e-3)
        if not self.total_bytes or not rate:
            return f"{rate / 1e6:.1f} MB/s"
        left = max(0, self.total_bytes - self.bytes_read) / rate
        return f"{rate / 1e6:.1f} MB/s, {left // 3600:.0f}:{left // 60 % 60:02.0f}:{left % 60:02.0f} left"


def make_progress_bar(total_bytes: int | None, activity: str) -> Any:
    import rich
    from rich import progress

    columns = (progress.TextColumn(activity), progress.BarColumn(), progress.DownloadColumn())
    speed = progress.TextColumn("{task.fields[speed]}")
    bar = progress.Progress(*columns, speed, console=rich.get_console(), transient=True)
    bar.add_task(activity, total=total_bytes, speed="")
    return bar
