"""The loop of a sweep, top to bottom: claim, start, poll, report, prune, finish.

There is one controller for each machine, and one process for each trial. Any of them may be killed at any moment: the
study records which trials are running and their run folders how far they are, so the same command continues. The
states of a trial are in `study.ownership`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import optuna
from optuna.trial import TrialState

from nanogpt_kit.comparison.numbers import count_text
from nanogpt_kit.core.errors import KitError, RunFailed
from nanogpt_kit.launch.slots import MachineSlot
from nanogpt_kit.sweep.study.plan import Plan
from nanogpt_kit.sweep.study.records import TrialResult
from nanogpt_kit.sweep.study.study import Study
from nanogpt_kit.sweep.work.budget import Budget
from nanogpt_kit.sweep.work.outcome import Outcome
from nanogpt_kit.sweep.work.trial import TrialProcess
from nanogpt_kit.sweep.work.watcher import TrialWatcher
from nanogpt_kit.train.stop import StopSignals

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.05  # between checks of the trials of this controller
OTHERS_SECONDS = 2.0  # between checks whether other controllers have ended or lost trials
IDLE_SECONDS = 0.5  # until the next search for a trial if there was none
EQUAL_FAILURES = 3  # trials in a row that end the sweep


class Controller:
    """Runs a study's trials in the slots of this machine until none is left."""

    def __init__(
        self,
        study: Study[Plan],
        slots: Sequence[MachineSlot],
        stop: StopSignals,
        watchers: Sequence[TrialWatcher] = (),
        budget: Budget | None = None,
    ) -> None:
        """`budget` is by default that of the study alone."""
        self.study, self.slots, self.stop, self.watchers = study, slots, stop, watchers
        self.budget = budget or Budget(study)
        self.running: list[TrialProcess] = []
        self.failures: list[tuple[str, str]] = []  # cause and origin of the newest trials, as long as they are equal
        self.checked_others_at = self.idle_until = -float("inf")
        self.is_waiting = False  # for other controllers

    def run(self) -> None:
        """Raises KeyboardInterrupt if asked to stop, and RunFailed or KitError if further trials would fail, too."""
        try:
            while not self.stop.name:
                self.fill_slots()
                for process in list(self.running):
                    try:
                        outcome = process.poll(self.must_wait(process))
                        if outcome is not None:
                            self.finish(process, outcome)
                    except optuna.exceptions.UpdateFinishedTrialError:
                        self.drop(process)
                for watcher in self.watchers:
                    watcher.trials_polled(self.running)
                if not self.running and self.is_done():
                    return
                time.sleep(POLL_SECONDS)
            raise KeyboardInterrupt(self.stop.name)
        finally:
            self.stop_trials()

    def must_wait(self, process: TrialProcess) -> bool:
        """Whether a trial beside it chooses now if their graph is compiled: all runs of a graph compute alike."""
        others = (other for other in self.running if other is not process)
        return process.process is None and any(other.is_choosing_for(process) for other in others)

    # Which trial next

    def fill_slots(self) -> None:
        used = {process.slot.index for process in self.running}
        for slot in self.slots:
            if slot.index not in used:
                if time.monotonic() < self.idle_until:
                    return
                process = self.next_trial(slot)
                if process is None:
                    self.idle_until = time.monotonic() + IDLE_SECONDS
                    return
                self.running.append(process)
                for watcher in self.watchers:
                    watcher.trial_started(process)

    def next_trial(self, slot: MachineSlot) -> TrialProcess | None:
        """A trial that another controller has lost, otherwise the next one of the queue."""
        if time.monotonic() - self.checked_others_at > OTHERS_SECONDS:
            for lost in self.study.lost_trials([process.index for process in self.running]):
                process = self.start_trial(optuna.Trial(self.study.optuna_study, lost._trial_id), slot)
                if process is not None:
                    return process
            self.checked_others_at = time.monotonic()
        if not self.budget.allows_trial(self.running):
            return None
        while (trial := self.study.claim()) is not None:
            process = self.start_trial(trial, slot)
            if process is not None:
                return process
        return None

    def start_trial(self, trial: optuna.Trial, slot: MachineSlot) -> TrialProcess | None:
        """None if another controller has the trial, or if its values are not valid together."""
        acquired = self.study.ownership.acquire(trial)
        if acquired is None:
            return None
        folder, lock = acquired
        try:
            return TrialProcess(self.study, trial, slot, folder, lock)
        except KitError as error:
            self.refuse(trial, error)
        except optuna.exceptions.UpdateFinishedTrialError:  # another machine assumed that it was lost, and ended it
            pass
        lock.__exit__(None, None, None)
        return None

    def refuse(self, trial: optuna.Trial, error: KitError) -> None:
        """Ends a trial whose values, between the endpoints, are not valid together: to the sampler, a bad point."""
        reason = "; ".join(fault.message for fault in error.faults)
        TrialResult(cause="refused", reason=reason).store(trial)
        self.study.optuna_study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
        for watcher in self.watchers:
            watcher.trial_refused(self.study.plan.label(trial), reason)

    def is_done(self) -> bool:
        """Whether no trial is left, here and elsewhere."""
        if self.study.is_finished():
            return True
        if not self.study.trials_to_run(TrialState.RUNNING) and not self.budget.allows_trial(self.running):
            logger.info("%s", self.budget.end_text())
            return True
        if not self.study.trials_to_run(TrialState.WAITING):
            if not self.is_waiting:
                logger.info("waiting for the last %ss, which other controllers run", self.study.plan.noun)
                self.is_waiting = True
            time.sleep(OTHERS_SECONDS / 4)
        return False

    # How a trial ends

    def finish(self, process: TrialProcess, outcome: Outcome) -> None:
        """Stores the outcome of a trial, and frees its slot."""
        self.check_failures(process, outcome)
        process.store_result(outcome)
        self.study.optuna_study.tell(process.trial, outcome.value, outcome.state, skip_if_finished=True)
        if outcome.cause == "pruned":
            process.delete_checkpoints()
        process.release()
        self.running.remove(process)
        self.idle_until = -float("inf")
        for watcher in self.watchers:
            watcher.trial_ended(process, outcome)

    def drop(self, process: TrialProcess) -> None:
        """Drops a trial that another machine assumed to be lost, and ended."""
        logger.warning("%s was ended by another controller, which assumed that this one was dead", process.label)
        process.kill()
        process.release()
        self.running.remove(process)

    def check_failures(self, process: TrialProcess, outcome: Outcome) -> None:
        """Raises RunFailed or KitError if further trials would fail alike; this one has no outcome then."""
        plan = self.study.plan
        if outcome.cause == "disk":
            raise RunFailed(f"{process.folder}: {outcome.reason}; the same command continues once there is room")
        if outcome.cause == "refused" and plan.is_required(process.index):
            raise KitError(f"{process.label}, {plan.required}, was refused: {outcome.reason}")
        if not plan.counts_failure(process.index):
            return
        if outcome.cause in ("complete", "pruned", "oom", "not_finite"):
            self.failures = []
            return
        failure = (outcome.cause, outcome.origin)
        self.failures = [*self.failures, failure] if failure in self.failures[-1:] else [failure]
        if len(self.failures) >= EQUAL_FAILURES:
            log = process.run_file(".log")
            raise RunFailed(
                f"{EQUAL_FAILURES} {plan.noun}s in a row failed for the same reason: {outcome.reason} (see {log})"
            )

    def stop_trials(self) -> None:
        """Lets the running trials save and end; the same command continues them."""
        if self.running:
            running = count_text(len(self.running), self.study.plan.noun)
            logger.info("stopping %s, which a second Ctrl-C kills", running)
        for process in self.running:
            process.stop()
        try:
            while any(process.process is not None for process in self.running):
                for process in self.running:
                    if process.process is not None and process.process.poll() is not None:
                        process.process = None
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            logger.info("killing them")
        finally:
            for process in self.running:
                process.kill()
                process.release()
