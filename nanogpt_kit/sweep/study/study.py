"""The study behind a sweep: how it is begun, found again, and shared by several controllers without a trial too many.

All trials of a sweep are queued when it begins, and a controller takes one from the queue by a change of its state that
only one of them can make. Asking for new ones instead overshoots (Optuna's issue 3518).
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.layers import COMMAND_LINE
from nanogpt_kit.core.writing import write_atomically
from nanogpt_kit.launch.slots import Slot
from nanogpt_kit.runs.lock import Lock, is_locked
from nanogpt_kit.sweep.space.parameters import Config
from nanogpt_kit.sweep.space.space import Space
from nanogpt_kit.sweep.study.runs import AT, Run, copy_of, identity, make_runs, sign
from nanogpt_kit.sweep.study.sampler import ResumableSampler, make_pruner

FIXED = ("metric", "direction", "seeds")  # of [sweep]: what makes two trials comparable
LOCAL = ("journal", "sqlite")  # storages that no other machine sees
BEGUN = "begun"  # study attribute: all trials are queued
BEGIN_SECONDS = 20  # for the controller that made the study to queue its trials
ORPHANED_SECONDS = 10  # after which a trial that nobody has signed belongs to nobody
LOST_SECONDS = 600  # after which a trial whose machine has not been heard of is taken over
WAIT_SECONDS = 0.2

optuna.logging.set_verbosity(optuna.logging.ERROR)


class Study:
    """A sweep's trials in their storage."""

    def __init__(self, space: Space, storage: BaseStorage, folder: Path, nproc: int = 1, suffix: str = "") -> None:
        self.space, self.storage, self.folder, self.nproc = space, storage, folder, nproc
        self.base = space.base
        assert self.base.sweep is not None, "there is a [sweep] table"
        self.options = self.base.sweep
        self.name, self.suffix = self.base.name + suffix, suffix
        self.chooser = ResumableSampler(space, self.options)
        points = self.chooser.points
        self.count = self.options.trials if points is None else min(self.options.trials, len(points))

    # How it begins

    def open(self, first: Config) -> None:
        """Begins the study, or goes on with it. Raises KitError where it is about something else.

        `first` is trial 0.
        """
        self.begin(self.facts(), [self.space.params(first)])

    def begin(self, facts: dict[str, Any], first: Sequence[dict[str, Any]]) -> None:
        """Makes the study and queues its trials, or waits until the machine that makes it has."""
        self._check_leftovers()
        how: Any = {"storage": self.storage, "sampler": self.chooser, "study_name": self.name}
        how["pruner"] = make_pruner(self.options, self.trial_tokens)
        with self.lock("begin", wait=True):  # of those who share this folder
            if identity(self.folder) is None:
                write_atomically(self.folder / "trials" / "id", uuid.uuid4().hex)
            try:
                self.study = optuna.create_study(direction=self.options.direction, **how)
                self.study.set_user_attr("maker", {"folder": str(self.folder), "id": identity(self.folder)})
            except optuna.exceptions.DuplicatedStudyError:
                self.study = optuna.load_study(**how)
                self._check_ours()
                self._wait_for_its_maker()
            self.chooser.study = self.study
            if BEGUN not in self.study.user_attrs:
                for key, value in facts.items():
                    self.study.set_user_attr(key, value)
                self.queue(first)
                self.study.set_user_attr(BEGUN, True)
            self.check_facts(facts)
            self._keep_components()
            self.queue(first)  # more may be wanted than before
            self.study.set_user_attr("count", self.count)

    def _check_ours(self) -> None:
        """One that is empty yet may be: its maker has not come further."""
        trials, about = self.trials(), self.study.user_attrs
        if (trials or about) and "maker" not in about:
            raise KitError(f"the storage has a study {self.name!r} that is no sweep; take another name")

    def _wait_for_its_maker(self) -> None:
        deadline = time.monotonic() + BEGIN_SECONDS
        while time.monotonic() < deadline and BEGUN not in self.study.user_attrs:
            maker = self.study.user_attrs.get("maker", {})
            folder = Path(maker.get("folder", ""))
            if self.options.storage in LOCAL or folder == self.folder:
                return  # it was killed: we have its lock
            is_here = maker and identity(folder) == maker["id"]
            if is_here and not is_locked(self.lock("begin", at=folder).path):
                return
            time.sleep(WAIT_SECONDS)

    def _check_leftovers(self) -> None:
        known = [self.storage.get_study_name_from_id(one._study_id) for one in self.storage.get_all_studies()]
        if self.name not in known and any(self.folder.glob("trial-*/experiment.toml")):
            raise KitError(
                f"{self.folder} holds trials of a study that is not in this storage; move that folder away, or give "
                "the experiment another name"
            )

    def _keep_components(self) -> None:
        for path, source in self.base.component_sources.items():
            copy = copy_of(path, self.folder)
            copy.parent.mkdir(exist_ok=True)
            write_atomically(copy, source)

    def facts(self) -> dict[str, Any]:
        """What the study is about; it cannot change while it goes on."""
        return {
            "space": self.space.described(),
            "experiment": self.base.resolved(),
            "fingerprint": self.base.fingerprint(),
            "sweep": {key: getattr(self.options, key) for key in FIXED},
            "nproc": self.nproc,
            "trial_tokens": self.trial_tokens,
        }

    def check_facts(self, now: dict[str, Any]) -> None:
        """Raises KitError with each difference to what the study was begun with."""
        then = self.study.user_attrs
        if "experiment" not in then:
            raise KitError(f"the storage has a study {self.name!r} that confirms another sweep; take another name")
        places = {f"sweep.space.{one.name}": one.location for one in self.space.parameters}
        faults = []
        if then["nproc"] != now["nproc"]:
            faults.append(Fault(f"{then['nproc']} when the sweep began, {now['nproc']} now", "--nproc", COMMAND_LINE))
        tables = [
            ("sweep.space", then["space"], now["space"]),
            ("sweep", then["sweep"], now["sweep"]),
            ("", flat_leaves(then["experiment"]), flat_leaves(now["experiment"])),
        ]
        for prefix, before, after in tables:
            for key in [*before, *(key for key in after if key not in before)]:
                if before.get(key) != after.get(key):
                    was, is_ = (str(side.get(key, "not there")) for side in (before, after))
                    full = f"{prefix}.{key}" if prefix else key
                    parts = tuple(int(part) if part.isdecimal() else part for part in full.split("."))
                    place = places.get(full) or self.base.layers.location(parts)
                    faults.append(Fault(f"{was} when the sweep began, {is_} now", full, place))
        if not faults and then["fingerprint"] != now["fingerprint"]:
            faults.append(Fault("the code of its components was another when the sweep began", "components"))
        if faults:
            more = "its trials would not compare; take back the change, or give the experiment another name"
            raise KitError(*faults, Fault(f"the sweep {self.name!r} goes on as it began: {more}"))

    @property
    def trial_tokens(self) -> int:
        """Of a trial that is not pruned, as the experiment is written."""
        return self.base.total_steps * self.base.train.batch_tokens

    def queue(self, first: Sequence[dict[str, Any]]) -> None:
        """Up to as many trials as are wanted: `first` of all, then what the sampler will choose."""
        there = self.study.get_trials(deepcopy=False)
        queued = [trial.system_attrs.get("fixed_params") for trial in there]
        for params in first[len(there) :]:
            self.study.enqueue_trial(params)
            queued.append(params)
        missing = self.count - len(queued)
        if self.options.sampler == "grid":
            assert self.chooser.points is not None, "a grid is finite"
            points = [self.space.params(point) for point in self.chooser.points]
            left = [point for point in points if point not in queued]
            if missing < len(left):
                random.Random(self.options.seed).shuffle(left)
            for point in left[:missing]:
                self.study.enqueue_trial(point)
            return
        for _ in range(missing):
            self.study.enqueue_trial({})

    # Who works at what

    def lock(self, name: str, wait: bool = False, at: Path | None = None) -> Lock:
        folder = (at or self.folder) / "trials"
        folder.mkdir(parents=True, exist_ok=True)
        return Lock(folder / f"{name}{self.suffix}.lock", wait)

    def config(self, trial: optuna.Trial) -> Config:
        """Its values, chosen now where they were not yet."""
        return self.space.suggest(trial)

    def runs(self, trial: optuna.Trial, slot: Slot, folder: Path) -> list[Run]:
        """One a seed. Raises KitError where its values do not go together."""
        first = self.base.train.seed
        seeds = range(first, first + self.options.seeds)
        return make_runs(self.space, trial.number, self.config(trial), seeds, slot.threads, folder)

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states or None)

    def claim(self) -> optuna.Trial | None:
        """The next of the queue, this controller's from now on; None where there is none, or as many as wanted."""
        for trial in self.trials(TrialState.WAITING):
            if trial.number < self.count:
                try:
                    if self.storage.set_trial_state_values(trial._trial_id, state=TrialState.RUNNING):
                        mine = optuna.Trial(self.study, trial._trial_id)
                        sign(mine, self.folder)
                        return mine
                except optuna.exceptions.UpdateFinishedTrialError:
                    continue
        return None

    def orphans(self, mine: Sequence[int]) -> list[FrozenTrial]:
        """Running trials whose controller is gone. Of folders that are here the lock, which is tried next, decides."""

        def is_orphaned(trial: FrozenTrial) -> bool:
            at = trial.user_attrs.get(AT)
            if at is None:
                began = trial.datetime_start
                return began is None or time.time() - began.timestamp() > ORPHANED_SECONDS
            return bool(identity(Path(at["folder"])) == at["id"] or time.time() - at["seen"] > LOST_SECONDS)

        running = [trial for trial in self.trials(TrialState.RUNNING) if trial.number not in mine]
        return [trial for trial in running if is_orphaned(trial)]

    def is_finished(self) -> bool:
        ended = [trial for trial in self.trials() if trial.state.is_finished()]
        return len(ended) >= self.count


def flat_leaves(values: Any) -> dict[str, Any]:
    from nanogpt_kit.core.errors import dotted
    from nanogpt_kit.core.options import leaves

    return {dotted(key): value for key, value in leaves(values)}
