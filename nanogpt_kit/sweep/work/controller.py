"""The loop of a sweep, top to bottom: ask, start, watch, report, prune, tell.

One controller a machine, one process a trial. Whatever is killed, and whenever: the study says which trials are at work
and their run folders say how far they are, so that the same command goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from nanogpt_kit.core.errors import KitError, RunFailed
from nanogpt_kit.launch.slots import MachineSlot
from nanogpt_kit.sweep.study.runs import AT, END, identity, known_of
from nanogpt_kit.sweep.study.sampler import first_rung, unit_of
from nanogpt_kit.sweep.study.study import Study
from nanogpt_kit.sweep.work import hparams
from nanogpt_kit.sweep.work.trial import Outcome, TrialProcess
from nanogpt_kit.train.stop import StopSignals

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.05  # between looks at what the trials have measured
ELSEWHERE_SECONDS = 2.0  # between looks whether trials of others have ended, or lost their controller
IDLE_SECONDS = 0.5  # between looks for work where there was none
SAME_BUG = 3  # trials in a row that fail alike end the sweep


class Controller:
    """Works at a study in the slots of this machine until nothing is left to do."""

    def __init__(
        self,
        study: Study,
        slots: Sequence[MachineSlot],
        stop: StopSignals,
        nproc: int = 1,
        watchers: Sequence[Any] = (),
    ) -> None:
        self.study, self.slots, self.stop, self.nproc = study, slots, stop, nproc
        self.watchers = watchers  # with any of: began(work), looked(works), ending(work, outcome), ended(work, outcome)
        self.works: list[TrialProcess] = []
        self.failing: list[tuple[str, str]] = []  # cause and origin of what the newest trials failed of
        self.looked_elsewhere = self.idle_until = -float("inf")
        self.waited = False
        self.is_spent = False

    def run(self) -> None:
        """Raises KeyboardInterrupt where it was asked to stop, RunFailed or KitError where going on is of no use."""
        try:
            while not self.stop.name:
                self.fill_slots()
                for work in list(self.works):
                    try:
                        outcome = work.poll()
                        if outcome is not None:
                            self.tell(work, outcome)
                    except optuna.exceptions.UpdateFinishedTrialError:
                        self.drop(work)
                self.call("looked", self.works)
                if not self.works and self.is_done():
                    return
                time.sleep(LOOK_SECONDS)
            raise KeyboardInterrupt(self.stop.name)
        finally:
            self.end()

    # Which trial next

    def fill_slots(self) -> None:
        busy = {work.slot.index for work in self.works}
        for slot in self.slots:
            if slot.index not in busy:
                if time.monotonic() < self.idle_until:
                    return
                work = self.next_work(slot)
                if work is None:
                    self.idle_until = time.monotonic() + IDLE_SECONDS
                    return
                self.works.append(work)
                self.call("began", work)

    def next_work(self, slot: MachineSlot) -> TrialProcess | None:
        """What a controller that is gone has left, else the next of the queue."""
        if time.monotonic() - self.looked_elsewhere > ELSEWHERE_SECONDS:
            for orphan in self.study.orphans([work.number for work in self.works]):
                work = self.work(optuna.Trial(self.study.study, orphan._trial_id), slot, orphan)
                if work is not None:
                    return work
            self.looked_elsewhere = time.monotonic()
        if self.budget_is_spent():
            return None
        while (trial := self.study.claim()) is not None:
            work = self.work(trial, slot)
            if work is not None:
                return work
        return None

    def work(self, trial: optuna.Trial, slot: MachineSlot, orphan: FrozenTrial | None = None) -> TrialProcess | None:
        """The trial in a slot; None where another controller has it, or where its values do not go together."""
        at = trial.user_attrs.get(AT, {})
        folder = Path(at.get("folder", self.study.folder))
        if not at or identity(folder) != at["id"]:  # of another machine, which is lost: it begins again, here
            folder = self.study.folder
        lock = self.study.lock(f"{trial.number:04d}", at=folder)
        try:
            lock.__enter__()
        except BlockingIOError:
            return None
        if orphan is not None and trial.storage.get_trial(trial._trial_id).state != TrialState.RUNNING:
            lock.__exit__(None, None, None)  # its controller has told its end just before
            return None
        unit, least = unit_of(self.study.trial_tokens), first_rung(self.study.options, self.study.trial_tokens)
        try:
            runs = self.study.runs(trial, slot, folder)
            return TrialProcess(trial, runs, slot, folder, lock, self.study.options.metric, unit, least, self.nproc)
        except KitError as error:
            self.refuse(trial, error)
        except optuna.exceptions.UpdateFinishedTrialError:  # another machine took it for lost, and has told its end
            pass
        lock.__exit__(None, None, None)
        return None

    def refuse(self, trial: optuna.Trial, error: KitError) -> None:
        """Values between the endpoints that do not go together: to the sampler, a bad place."""
        reason = "; ".join(one.message for one in error.faults)
        trial.set_user_attr(END, {"cause": "refused", "reason": reason})
        self.study.study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
        self.call("refused", trial.number, reason)

    def budget_is_spent(self) -> bool:
        options = self.study.options
        if options.max_tokens is None and options.max_seconds is None:
            return False
        ended = self.study.trials()
        spent = {key: sum(known_of(trial).get(key, 0) for trial in ended) for key in ("tokens", "seconds")}
        for work in self.works:
            spent["tokens"] += sum(run.tokens for run in work.runs)
            spent["seconds"] += sum(run.seconds for run in work.runs)
        limits = (("tokens", options.max_tokens), ("seconds", options.max_seconds))
        over = [f"sweep.max_{key} = {most:g}" for key, most in limits if most is not None and spent[key] >= most]
        if over and not self.is_spent:
            logger.info("%s spent; no further trial begins", " and ".join(over))
        self.is_spent = bool(over)
        return self.is_spent

    def is_done(self) -> bool:
        """Whether nothing is left, here and elsewhere."""
        if self.is_spent:
            return not self.study.trials(TrialState.RUNNING)
        if self.study.is_finished():
            return True
        if not self.study.trials(TrialState.WAITING):
            if not self.waited:
                logger.info("the last trials are at work in other controllers; waiting for them")
                self.waited = True
            time.sleep(ELSEWHERE_SECONDS / 4)
        return False

    # What became of it

    def tell(self, work: TrialProcess, outcome: Outcome) -> None:
        self.check_failing(work, outcome)
        work.note(outcome)
        self.call("ending", work, outcome)
        self.study.study.tell(work.trial, outcome.value, outcome.state, skip_if_finished=True)
        if outcome.cause == "pruned":
            work.forget_checkpoints()
        work.release()
        self.works.remove(work)
        self.idle_until = -float("inf")
        self.call("ended", work, outcome)

    def drop(self, work: TrialProcess) -> None:
        """One that another machine took for lost, and has told its end."""
        logger.warning(
            "trial %d was ended by another controller, which had not heard of this one for long", work.number
        )
        work.kill()
        work.release()
        self.works.remove(work)

    def check_failing(self, work: TrialProcess, outcome: Outcome) -> None:
        """Raises RunFailed or KitError where going on would only repeat what failed; this trial is tried again then."""
        if outcome.cause in ("complete", "pruned", "oom", "not_finite"):
            self.failing = []
            return
        if outcome.cause == "disk":
            raise RunFailed(f"{work.folder}: {outcome.reason}; the same command goes on when there is room")
        log = work.folder / "trials" / f"{work.run.folder.path.name}.log"
        if work.number == 0 and outcome.cause == "refused":
            raise KitError(f"trial 0, the experiment as written, was refused: {outcome.reason}")
        alike = (outcome.cause, outcome.origin)
        self.failing = [*self.failing, alike] if alike in self.failing[-1:] else [alike]
        if len(self.failing) >= SAME_BUG:
            raise RunFailed(f"{SAME_BUG} trials in a row failed of the same: {outcome.reason} (see {log})")

    def end(self) -> None:
        """Lets the trials at work save and end; the same command goes on with them."""
        if self.works:
            logger.info("stopping %d trials; a second Ctrl-C kills them", len(self.works))
        signals = self.stop.name
        for work in self.works:
            work.stop()
        try:
            while any(work.child is not None for work in self.works):
                for work in self.works:
                    if work.child is not None and work.child.poll() is not None:
                        work.child = None
                time.sleep(LOOK_SECONDS)
        except KeyboardInterrupt:
            logger.info("killing them%s", "" if signals else " at once")
        finally:
            for work in self.works:
                work.kill()
                work.release()

    def call(self, moment: str, *arguments: Any) -> None:
        for watcher in self.watchers:
            heard: Callable[..., None] | None = getattr(watcher, moment, None)
            if heard is not None:
                heard(*arguments)


class HParams:
    """Every trial's values in TensorBoard, beside its curves."""

    def __init__(self, study: Study) -> None:
        self.study = study

    def ending(self, work: TrialProcess, outcome: Outcome) -> None:
        config = self.study.config(work.trial)
        number = work.trial.user_attrs.get("trial", work.number)  # a confirmation's runs are of another's trials
        for run in work.runs:
            values = {**config, "trial": number, "train.seed": run.experiment.train.seed}
            hparams.write(run.folder.path / "tensorboard", values, outcome.state == TrialState.COMPLETE)
