"""A study: the trials of a plan in their storage, shared by several controllers, which together run the exact number.

All trials are queued when the study is created, and a controller takes one from the queue by a change of its state that
only one of them can make. Asking Optuna for new trials instead overshoots (its issue 3518).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.launch.slots import MachineSlot
from nanogpt_kit.runs.lock import is_locked
from nanogpt_kit.sweep.space.parameters import Config
from nanogpt_kit.sweep.study.ownership import (
    Ownership,
    OwnershipState,
    create_folder_id,
    is_on_this_machine,
    make_owner_record,
    send_heartbeat,
)
from nanogpt_kit.sweep.study.plan import LOCAL_STORAGES, Plan
from nanogpt_kit.sweep.study.records import Owner, report_damage
from nanogpt_kit.sweep.study.runs import TrialRun, component_copies
from nanogpt_kit.sweep.study.sampler import ResumableSampler
from nanogpt_kit.system.writing import remove_temporary_files, write_atomically

CHOICES = "machine_choices"  # study attribute: see `core.machine_choices`
IS_QUEUED = "queued"  # study attribute: all trials are in the queue
QUEUE_SECONDS = 20  # for the controller that created the study to queue its trials
POLL_SECONDS = 0.2

PlanT = TypeVar("PlanT", bound=Plan, covariant=True)

optuna.logging.set_verbosity(optuna.logging.ERROR)


class Study(Generic[PlanT]):
    """The trials of a plan. `folder` is the sweep's on this machine.

    `measure_choices` returns what all of its runs are to compute with; it is called when the study is created.
    """

    def __init__(
        self,
        plan: PlanT,
        storage: BaseStorage,
        folder: Path,
        measure_choices: Callable[[], Mapping[str, str]] = dict[str, str],
    ) -> None:
        self.measure_choices = measure_choices
        self.plan, self.storage, self.folder = plan, storage, folder
        self.options = plan.options
        self.ownership = Ownership(folder, plan.suffix)
        self.indices: Collection[int] = ()  # of the trials to be run; known when the study is open

    # Creating or continuing it

    def open(self) -> None:
        """Creates the study and queues its trials, or continues it; waits while another machine creates it.

        Raises KitError if the storage has another study of this name.
        """
        self._check_leftover_runs()
        sampler = self.plan.sampler()
        options: dict[str, Any] = {"storage": self.storage, "sampler": sampler, "study_name": self.plan.study_name}
        options["pruner"] = self.plan.pruner()
        with self.ownership.lock("begin", wait=True):  # held by at most one controller of this folder
            create_folder_id(self.folder)
            try:
                self.optuna_study = optuna.create_study(direction=self.options.direction, **options)
                self.optuna_study.set_user_attr("maker", make_owner_record(self.folder).stored())
            except optuna.exceptions.DuplicatedStudyError:
                self.optuna_study = optuna.load_study(**options)
                with report_damage(self.plan.study_name, self.plan.storage_key):
                    self._check_is_sweep()
                    self._wait_for_creator()
            if isinstance(sampler, ResumableSampler):
                sampler.study = self.optuna_study
            self.plan.begin(self.optuna_study)
            if IS_QUEUED not in self.optuna_study.user_attrs:
                for key, value in self.plan.facts().items():
                    self.optuna_study.set_user_attr(key, value)
                if CHOICES not in self.optuna_study.user_attrs:
                    self.optuna_study.set_user_attr(CHOICES, dict(self.measure_choices()))
                self.queue_missing()
                self.optuna_study.set_user_attr(IS_QUEUED, True)
            with report_damage(self.plan.study_name, self.plan.storage_key):
                self.plan.check_facts(self.optuna_study.user_attrs)
            self._copy_components()
            self.queue_missing()  # more may be asked for than before
            self.indices = self.plan.indices(self.trials())
            self.optuna_study.set_user_attr("count", self.count)

    def _check_leftover_runs(self) -> None:
        if self.plan.names_unused_folders:
            return
        studies = [self.storage.get_study_name_from_id(study._study_id) for study in self.storage.get_all_studies()]
        if self.plan.study_name.removesuffix(self.plan.suffix) not in studies and any(
            self.folder.glob(f"{self.plan.run_folders}/experiment.toml")
        ):
            raise KitError(
                f"{self.folder} has {self.plan.noun}s of a study that is not in {self.plan.storage_key}; move that "
                f"folder away, or {self.plan.other_study}"
            )

    def _check_is_sweep(self) -> None:
        """Raises KitError if it is not, or of another version. An empty study may be one that was just created."""
        has_trials = bool(self.trials())  # read first: its maker is stored before any of them
        attributes, plan = self.optuna_study.user_attrs, self.plan
        if (has_trials or attributes) and "maker" not in attributes:
            raise KitError(
                f"{plan.storage_key} has a study {plan.study_name!r} that is not a {plan.undertaking}; "
                f"{plan.other_study}"
            )
        if "maker" in attributes:
            self.plan.check_format(attributes["maker"].get("format"))

    def _wait_for_creator(self) -> None:
        """Returns when all trials are queued, or when the controller that should have done so has ended."""
        deadline = time.monotonic() + QUEUE_SECONDS
        while time.monotonic() < deadline and IS_QUEUED not in self.optuna_study.user_attrs:
            stored = self.optuna_study.user_attrs.get("maker")
            maker = Owner.model_validate(stored) if stored else None
            if self.options.storage in LOCAL_STORAGES or (maker and Path(maker.folder) == self.folder):
                return  # it was killed: we hold its lock
            if maker and is_on_this_machine(maker):
                lock = self.ownership.lock("begin", folder=Path(maker.folder))
                if not is_locked(lock.path):
                    return
            time.sleep(POLL_SECONDS)

    def _copy_components(self) -> None:
        for path, source in self.plan.component_sources().items():
            copy = component_copies(self.folder) / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            remove_temporary_files(copy.parent, of=copy.name)
            write_atomically(copy, source)

    def machine_choices(self) -> dict[str, str]:
        """The choices of all of its runs, on every machine; none where it was created by rules alone."""
        return dict(self.optuna_study.user_attrs.get(CHOICES, {}))

    def add_choices(self, more: Mapping[str, str]) -> dict[str, str]:
        """The choices of all of its runs, and from now on those of other tasks that one of its runs has recorded."""
        known = self.machine_choices()
        if more.keys() - known.keys():
            self.optuna_study.set_user_attr(CHOICES, known := {**more, **known})
        return known

    def queue_missing(self) -> None:
        for trial in self.plan.missing_trials(self.trials()):
            self.optuna_study.enqueue_trial(trial.params, user_attrs=trial.attributes)

    # Its trials

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """All trials, or those of some states."""
        return self.optuna_study.get_trials(deepcopy=False, states=states or None)

    def trials_to_run(self, *states: TrialState) -> list[FrozenTrial]:
        """As `trials`, without those that this plan does not need."""
        return [trial for trial in self.trials(*states) if trial.number in self.indices]

    @property
    def count(self) -> int:
        """Trials to be run."""
        return len(self.indices)

    def claim(self) -> optuna.Trial | None:
        """The next trial of the queue, from now on this controller's; None if there is none to be run."""
        for waiting in self.trials_to_run(TrialState.WAITING):
            try:
                if self.storage.set_trial_state_values(waiting._trial_id, state=TrialState.RUNNING):
                    trial = optuna.Trial(self.optuna_study, waiting._trial_id)
                    send_heartbeat(trial, self.folder)
                    return trial
            except optuna.exceptions.UpdateFinishedTrialError:
                continue
        return None

    def lost_trials(self, mine: Sequence[int]) -> list[FrozenTrial]:
        """Trials whose controller is gone; `mine` are the indices of those that this controller runs."""
        running = [trial for trial in self.trials_to_run(TrialState.RUNNING) if trial.number not in mine]
        return [trial for trial in running if self.ownership.state(trial) is OwnershipState.LOST]

    def unfinished(self) -> list[FrozenTrial]:
        """The trials to be run that have not ended."""
        return [trial for trial in self.trials_to_run() if not trial.state.is_finished()]

    def is_finished(self) -> bool:
        return not self.unfinished()

    def config(self, trial: optuna.Trial) -> Config:
        return self.plan.config(trial)

    def runs(self, trial: optuna.Trial, slot: MachineSlot, folder: Path) -> list[TrialRun]:
        """The runs of a trial, in a sweep's folder. Raises KitError if the trial's values are not valid together."""
        return self.plan.runs(trial, slot.threads, folder)
