"""Which controller owns a trial: the states of ownership, and which controller may change them.

state    in the study                        becomes
-------  ----------------------------------  --------------------------------------------------------------------------
WAITING  WAITING                             CLAIMED: a controller sets RUNNING, which succeeds for only one of them
                                             (Study.claim)
CLAIMED  RUNNING, without an owner           ALIVE: that controller stores itself as the owner, at once
                                             LOST: after UNOWNED_SECONDS, since it was killed in between
ALIVE    RUNNING; its lock is held, or its   ALIVE: a heartbeat every HEARTBEAT_SECONDS (TrialProcess.poll)
         owner is on another machine and     ENDED: its controller stores the result (Controller.finish)
         was seen within LOST_SECONDS        LOST: its controller was killed, or its machine is gone
LOST     RUNNING, and nobody runs it         ALIVE: a controller acquires its lock and takes over (Ownership.acquire):
                                             it continues the runs in the owner's folder if that is on this machine,
                                             and starts again in its own folder otherwise
ENDED    COMPLETE, PRUNED or FAIL            nothing; a controller that finds its trial ended by another drops it
                                             (Controller.drop)

Between controllers of one machine the lock file of a trial decides, which the system drops with its holder; between
machines only heartbeats do. So a machine that is silent for LOST_SECONDS may lose a trial that it still runs.
"""

from __future__ import annotations

import time
import uuid
from enum import Enum
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from nanogpt_kit.runs.lock import Lock, is_locked
from nanogpt_kit.sweep.study.records import Owner
from nanogpt_kit.system.reading import read_text
from nanogpt_kit.system.writing import remove_temporary_files, write_atomically

HEARTBEAT_SECONDS = 60.0
LOST_SECONDS = 600  # without a heartbeat
UNOWNED_SECONDS = 10


class OwnershipState(Enum):
    """The states of a trial; the module's docstring has the transitions."""

    WAITING = "waiting"
    CLAIMED = "claimed"
    ALIVE = "alive"
    LOST = "lost"
    ENDED = "ended"


class Ownership:
    """The trials of one study, from the point of view of the controller of `folder`."""

    def __init__(self, folder: Path, suffix: str = "") -> None:
        self.folder, self.suffix = folder, suffix  # the studies of a sweep share its folder, and not their lock files

    def state(self, trial: FrozenTrial) -> OwnershipState:
        """The state of a trial."""
        if trial.state == TrialState.WAITING:
            return OwnershipState.WAITING
        if trial.state.is_finished():
            return OwnershipState.ENDED
        owner = Owner.of(trial)
        if owner is None:
            claimed = trial.datetime_start
            is_old = claimed is None or time.time() - claimed.timestamp() > UNOWNED_SECONDS
            return OwnershipState.LOST if is_old else OwnershipState.CLAIMED
        if is_on_this_machine(owner):
            is_alive = is_locked(self.trial_lock(trial.number, Path(owner.folder)).path)
        else:
            is_alive = time.time() - owner.seen <= LOST_SECONDS
        return OwnershipState.ALIVE if is_alive else OwnershipState.LOST

    def acquire(self, trial: optuna.Trial) -> tuple[Path, Lock] | None:
        """Locks a trial that was claimed or lost. Returns the sweep folder of its runs and the lock.

        None if another controller has the trial, or has just ended it.
        """
        owner = Owner.of(trial)
        folder = Path(owner.folder) if owner and is_on_this_machine(owner) else self.folder
        lock = self.trial_lock(trial.number, folder)
        try:
            lock.__enter__()
        except BlockingIOError:
            return None
        if trial.storage.get_trial(trial._trial_id).state != TrialState.RUNNING:
            lock.__exit__(None, None, None)
            return None
        return folder, lock

    def trial_lock(self, index: int, folder: Path | None = None) -> Lock:
        return self.lock(f"{index:04d}", folder=folder)

    def lock(self, name: str, wait: bool = False, folder: Path | None = None) -> Lock:
        """A lock in a sweep's folder, this controller's by default."""
        locks = (folder or self.folder) / "trials"
        locks.mkdir(parents=True, exist_ok=True)
        return Lock(locks / f"{name}{self.suffix}.lock", wait)


def send_heartbeat(trial: optuna.Trial, folder: Path) -> None:
    """Stores the controller of `folder` as the owner of a trial, alive now."""
    make_owner_record(folder).store(trial)


def make_owner_record(folder: Path) -> Owner:
    return Owner(folder=str(folder), folder_id=folder_id(folder), seen=time.time())


def is_on_this_machine(owner: Owner) -> bool:
    return folder_id(Path(owner.folder)) == owner.folder_id


def folder_id(folder: Path) -> str | None:
    """An id that distinguishes folders of the same path on two machines; None if the folder has none here."""
    try:
        return read_text(folder / "trials" / "id")
    except (OSError, ValueError):
        return None


def create_folder_id(folder: Path) -> None:
    if folder_id(folder) is None:
        remove_temporary_files(folder / "trials", of="id")
        write_atomically(folder / "trials" / "id", uuid.uuid4().hex)
