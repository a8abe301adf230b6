"""How far a preparation is: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import Any

logger = logging.getLogger(__name__)

EVERY_SECONDS = 10.0  # between plain lines


class Progress:
    """Of `total` bytes, where that is known."""

    def __init__(self, total: int | None, doing: str) -> None:
        import rich

        self.total, self.doing = total, doing
        self.seen = self.done = 0
        self.began = self.told = time.monotonic()
        self.bar = make_bar(total, doing) if rich.get_console().is_terminal else None

    def __enter__(self) -> Progress:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.stop()

    def add(self, size: int, worked: bool) -> None:
        """Bytes were worked on, or, with `worked` False, found to be done already."""
        self.seen += size
        self.done += size if worked else 0
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=self.seen, told=self.speed(now))
        elif now - self.told >= EVERY_SECONDS:
            self.told = now
            of = f" of {self.total / 1e6:,.0f}" if self.total else ""
            logger.info("%s: %s%s MB, %s", self.doing, f"{self.seen / 1e6:,.0f}", of, self.speed(now))

    def speed(self, now: float) -> str:
        """MB/s, and how long it will take."""
        rate = self.done / max(now - self.began, 1e-3)
        if not self.total or not rate:
            return f"{rate / 1e6:.1f} MB/s"
        left = max(0, self.total - self.seen) / rate
        return f"{rate / 1e6:.1f} MB/s, {left // 3600:.0f}:{left // 60 % 60:02.0f}:{left % 60:02.0f} left"


def make_bar(total: int | None, doing: str) -> Any:
    import rich
    from rich import progress

    columns = (progress.TextColumn(doing), progress.BarColumn(), progress.DownloadColumn())
    bar = progress.Progress(*columns, progress.TextColumn("{task.fields[told]}"), console=rich.get_console())
    bar.add_task(doing, total=total, told="")
    return bar
