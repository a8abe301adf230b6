"""Signals ask a run to save and end; a second Ctrl-C or SIGTERM ends it at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from nanogpt_kit.core import signals


class StopSignals:
    """While entered, the first signal leaves its name in `name`; a second SIGINT or SIGTERM raises KeyboardInterrupt.

    Python lets only the main thread take signals; elsewhere (a notebook's worker) this does nothing.
    """

    def __init__(self) -> None:
        self.name = ""
        self.is_urgent = False
        self.before: dict[int, Any] = {}
        self.insisting = 0  # SIGINT and SIGTERM received

    def __enter__(self) -> StopSignals:
        try:
            for number in signals.available():
                self.before[number] = signal.signal(number, self._take)
        except ValueError:
            pass
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """While entered, the first signal raises KeyboardInterrupt, too."""
        self.is_urgent = True
        try:
            yield
        finally:
            self.is_urgent = False

    def _take(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        self.insisting += name in signals.END_AT_ONCE
        self.name = self.name or name
        if self.is_urgent or self.insisting > 1:
            raise KeyboardInterrupt(self.name)
