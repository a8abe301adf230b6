"""SIGINT and SIGTERM ask a run to end in order; a second one ends it at once."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

SIGNALS = ("SIGINT", "SIGTERM")


class StopSignals:
    """While entered, the first signal leaves its name in `name`, and the second raises KeyboardInterrupt.

    Python lets only the main thread take signals; elsewhere (a notebook's worker) this does nothing.
    """

    def __init__(self) -> None:
        self.name = ""
        self.before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        try:
            for name in SIGNALS:
                number = getattr(signal, name)
                self.before[number] = signal.signal(number, self._take)
        except ValueError:
            pass
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.name:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
