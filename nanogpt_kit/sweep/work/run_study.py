"""Runs a study: the controller, with its display."""

from __future__ import annotations

from collections.abc import Sequence

from nanogpt_kit.launch.slots import MachineSlot
from nanogpt_kit.sweep.study.plan import Plan
from nanogpt_kit.sweep.study.study import Study
from nanogpt_kit.sweep.study.summary import TrialSummary
from nanogpt_kit.sweep.work.budget import Budget
from nanogpt_kit.sweep.work.controller import Controller
from nanogpt_kit.sweep.work.progress import ProgressDisplay
from nanogpt_kit.sweep.work.watcher import TrialWatcher
from nanogpt_kit.train.stop import StopSignals


def run_study(
    study: Study[Plan],
    slots: Sequence[MachineSlot],
    stop: StopSignals,
    watchers: Sequence[TrialWatcher] = (),
    best: TrialSummary | None = None,
    budget: Budget | None = None,
) -> None:
    """Runs the trials of a study in these slots until none is left; `best` is the best one so far.

    `budget` is by default that of the study alone.

    Raises KeyboardInterrupt if asked to stop, and RunFailed or KitError if further trials would fail, too.
    """
    with ProgressDisplay(study, best) as display:
        Controller(study, slots, stop, [display, *watchers], budget).run()
