"""The interface of what observes the trials of a controller: the display, best.toml."""

from __future__ import annotations

from collections.abc import Sequence

from nanogpt_kit.sweep.work.outcome import Outcome
from nanogpt_kit.sweep.work.trial import TrialProcess


class TrialWatcher:
    """Called by a controller, in its own thread. Override the methods that are needed."""

    def trial_started(self, process: TrialProcess) -> None:
        """A trial has a slot; it may continue an earlier controller's."""

    def trials_polled(self, processes: Sequence[TrialProcess]) -> None:
        """All running trials have been polled; several times a second."""

    def trial_ended(self, process: TrialProcess, outcome: Outcome) -> None:
        """The trial has ended, and its slot is free."""

    def trial_refused(self, label: str, reason: str) -> None:
        """A trial ended without a process, since its values are not valid together."""
