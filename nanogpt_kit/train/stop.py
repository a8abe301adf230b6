"""Decides whether a run ends before its last step: by signals, callbacks or budgets, and the same on all ranks."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from types import FrameType, TracebackType
from typing import Any

from nanogpt_kit.core.errors import LostRank
from nanogpt_kit.system import signals
from nanogpt_kit.train.progress import Progress
from nanogpt_kit.train.world import World


class StopSignals:
    """While entered, the first signal sets `name` to its name; a second SIGINT or SIGTERM raises KeyboardInterrupt.

    Python lets only the main thread take signals; elsewhere (a notebook's worker) this does nothing.
    """

    def __init__(self) -> None:
        self.name = ""
        self.raises_on_first = False
        self.previous_handlers: dict[int, Any] = {}
        self.immediate_stop_signals = 0  # SIGINT and SIGTERM received

    def __enter__(self) -> StopSignals:
        try:
            for number in signals.available_signals():
                self.previous_handlers[number] = signal.signal(number, self._handle)
        except ValueError:
            pass
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self.previous_handlers.items():
            signal.signal(number, handler)
        if isinstance(error, LostRank) and self.name:
            error.terminated = True

    @contextmanager
    def raise_on_first(self) -> Iterator[None]:
        """While entered, the first signal raises KeyboardInterrupt, too."""
        self.raises_on_first = True
        try:
            yield
        finally:
            self.raises_on_first = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        self.immediate_stop_signals += name in signals.END_AT_ONCE
        self.name = self.name or name
        if self.raises_on_first or self.immediate_stop_signals > 1:
            raise KeyboardInterrupt(self.name)


class Decision(IntEnum):
    """What a rank decides after a step; the largest decision of all ranks applies."""

    CONTINUE = 0
    FINISH = 1
    INTERRUPT = 2


class StopState:
    """Whether the run stops after this step, and why."""

    def __init__(self, signals: StopSignals, progress: Progress, world: World, max_seconds: float | None) -> None:
        self.signals = signals  # sent by the user
        self.progress = progress  # its stop_reason is a callback's
        self.world = world
        self.max_seconds = max_seconds
        self.exhausted_budget = ""  # the budget that ended the run, as a sentence
        self.decision = Decision.CONTINUE

    def agree(self) -> Decision:
        """The decision all ranks share; without it one rank could wait for another forever."""
        limit, progress = self.max_seconds, self.progress
        if self.world.rank == 0 and limit is not None and progress.seconds >= limit:  # by one clock
            self.exhausted_budget = f"the budget train.max_seconds = {limit:g} is used up"
        vote = Decision.FINISH if progress.stop_reason or self.exhausted_budget else Decision.CONTINUE
        largest = self.world.max(Decision.INTERRUPT if self.signals.name else vote)
        if largest > self.decision:
            reasons = self.world.all_gather((self.signals.name, progress.stop_reason, self.exhausted_budget))
            first = [next(filter(None, given), "") for given in zip(*reasons, strict=True)]
            self.signals.name, progress.stop_reason, self.exhausted_budget = first
            self.decision = Decision(largest)
        return self.decision

    def interrupted(self) -> bool:
        """Whether a signal has interrupted the run, on any rank."""
        return self.agree() == Decision.INTERRUPT
