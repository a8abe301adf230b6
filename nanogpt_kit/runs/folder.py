"""The folder of a run: its files and its status."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.paths import expand_path
from nanogpt_kit.runs.files import check_inside, check_writable, git_ignored_folder
from nanogpt_kit.runs.lock import Lock, is_locked
from nanogpt_kit.runs.provenance import Provenance
from nanogpt_kit.runs.record import Unreadable
from nanogpt_kit.runs.status import State, Status
from nanogpt_kit.system.writing import remove_temporary_files

PROVENANCE = "provenance.json"
WRITTEN_BEFORE_START = (PROVENANCE, "dirty.patch", "components")  # before experiment.toml, which makes it a run
RUN_ID = re.compile(r"(\d{8})-(\d{6})(\d{3})?-s(\d+)-[0-9a-f]{6}")  # UTC date, time with milliseconds; seed; hash
CHECKPOINT = re.compile(r"step-([0-9]{8,})")
STARTED = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)Z")  # as provenance.json has it


def runs_root() -> Path:
    return Path(expand_path(os.environ.get("NANOGPT_KIT_RUNS") or "runs", "NANOGPT_KIT_RUNS"))


def files_below_runs(pattern: str) -> list[Path]:
    """The files below the runs folder whose path there matches, in order. Folders that are removed meanwhile, at which
    pathlib's glob fails, are left out, as are hidden ones."""
    root = runs_root()
    return sorted(root / name for name in glob.glob(pattern, root_dir=root))


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, with the paths of its files."""

    path: Path

    @property
    def experiment(self) -> Path:
        return self.path / "experiment.toml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        """The folder of the checkpoint of a step, whether it exists or not."""
        return self.checkpoints / f"step-{step:08d}"

    def checkpoint_steps(self) -> list[int]:
        """The steps of its checkpoints in order, by the names of their folders; each may be damaged."""
        try:
            with os.scandir(self.checkpoints) as entries:
                names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:  # there are none yet
            return []
        return sorted(int(match[1]) for match in map(CHECKPOINT.fullmatch, names) if match)

    @property
    def samples(self) -> Path:
        return self.path / "samples.txt"

    def check_inside(self) -> None:
        """Raises KitError where writing into it would change something elsewhere, by a link for instance.

        Links in place of checkpoints are left to the store, which skips them.
        """
        check_inside(self.path, besides=self.checkpoints.name)

    def remove_temporary_files(self) -> None:
        """Removes temporary files that killed processes left. Called while the lock is held."""
        for folder in (self.path, self.path / "components"):
            if folder.exists():
                remove_temporary_files(folder)

    def lock(self) -> Lock:
        return Lock(self.path / "lock")

    def set_status(self, state: State, **details: Any) -> None:
        """Writes status.json; `details` are fields of Status."""
        Status(state=state, **details).write(self.path / "status.json")

    def status(self) -> Status:
        """The content of status.json; but a "running" run whose lock no process holds is "interrupted".

        So is a run whose status cannot be read; its `cause` is then "unreadable" or "other_format".
        """
        status = self.recorded_status()
        if status.state != "running":
            return status
        try:
            if is_locked(self.path / "lock"):
                return status
        except KitError as error:
            return status.model_copy(update={"state": "interrupted", "cause": "unreadable", "reason": str(error)})
        status = self.recorded_status()  # again: a run writes its last status, then drops the lock
        if status.state != "running":
            return status
        died = {"state": "interrupted", "cause": "died", "reason": "its process exited without reporting a status"}
        return status.model_copy(update=died)

    def check_format(self) -> None:
        """Raises KitError for a run that another version of nanogpt-kit wrote in another format."""
        status = self.recorded_status()
        if status.cause == "other_format":
            remedy = "train again, or use the version that wrote it"
            raise KitError(f"{self} was written by another version: {status.reason}; {remedy}")

    def recorded_status(self) -> Status:
        """The content of status.json, whether its process still runs or not."""
        try:
            return Status.read(self.path / "status.json")
        except FileNotFoundError:
            return Status(state="running", time=0.0)  # not written yet, or killed before that
        except Unreadable as error:
            return Status(state="interrupted", time=0.0, cause=error.cause, reason=str(error))

    def started(self) -> str:
        """Start time in UTC, as digits from the year to the millisecond: from its name where that is a run id, else
        from provenance.json; empty where neither has it. File times are not used, since a copy has others."""
        run_id = RUN_ID.fullmatch(self.path.name)
        if run_id:
            return run_id[1] + run_id[2] + (run_id[3] or "000")
        origin = self.provenance_or_none()
        started = STARTED.fullmatch(origin.started) if origin else None
        return "".join(started.groups()) + "000" if started else ""

    def seed(self) -> int | None:
        """train.seed: from its name where that is a run id, else from provenance.json."""
        run_id = RUN_ID.fullmatch(self.path.name)
        if run_id:
            return int(run_id[4])
        origin = self.provenance_or_none()
        return origin.seed if origin else None

    def provenance(self) -> Provenance:
        """Raises KitError where it is missing, damaged or of another format."""
        try:
            return Provenance.read(self.path / PROVENANCE)
        except FileNotFoundError:
            raise KitError(f"{self.path}: {PROVENANCE} is missing") from None
        except Unreadable as error:
            raise KitError(f"{self.path}: {error}") from None

    def write_provenance(self, origin: Provenance) -> None:
        origin.write(self.path / PROVENANCE)

    def provenance_or_none(self) -> Provenance | None:
        try:
            return self.provenance()
        except KitError:
            return None

    def __str__(self) -> str:
        return str(self.path)

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"


def new_run_folder(experiment: str, seed: int, fingerprint: str, into: Path | None = None) -> RunFolder:
    """Creates runs/<experiment>/<UTC time>-s<seed>-<short hash> (see RUN_ID), or uses `into`, which may exist if it is
    empty or its run was killed before the start. Raises KitError where that fails."""
    parent = runs_root() / experiment
    if into is not None:
        try:
            into.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise KitError(f"cannot make the run folder {into}: {error.strerror}") from None
        if any(not is_pre_start_file(path.name) for path in into.iterdir()):
            raise KitError(f"cannot run in {into}: it contains files that are not from a run")
        check_inside(into)
        return RunFolder(into)
    while True:
        unique = hashlib.sha256(f"{fingerprint} {time.time_ns()} {os.getpid()}".encode()).hexdigest()[:6]
        path = parent / f"{unique_start_time(parent)}-s{seed}-{unique}"
        try:
            with git_ignored_folder(runs_root()):
                path.mkdir(parents=True)
            return RunFolder(path)
        except FileExistsError:
            if not parent.is_dir():
                raise KitError(f"cannot write to {parent}: it is not a folder") from None
        except OSError as error:
            raise KitError(f"cannot make the run folder {path}: {error.strerror}") from None


def unique_start_time(parent: Path) -> str:
    """The current time in milliseconds, as a run id begins; a time that no other run in `parent` has, since runs are
    ordered by their ids."""
    for _ in range(100):  # a clock may stand still
        now = time.time_ns()
        moment = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now // 10**9))}{now // 10**6 % 1000:03d}"
        if not any(parent.glob(f"{moment}-*")):
            break
        time.sleep(0.001)
    return moment


def relative_to_cwd(path: Path) -> Path:
    """The path as a user would type it: relative where it is below the current folder."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def is_pre_start_file(name: str) -> bool:
    """Whether a run that was killed before its start may have left a file of this name, whole or half written."""
    partial = (f".{file}." for file in (*WRITTEN_BEFORE_START, "experiment.toml"))
    return name in WRITTEN_BEFORE_START or name.startswith(tuple(partial))


def check_runs_writable(experiment: str) -> None:
    check_writable(runs_root() / experiment, "NANOGPT_KIT_RUNS")


def runs_of_experiment(folder: Path) -> list[RunFolder]:
    """The runs of runs/<experiment> by start time, then by name; the newest is last. Hidden folders are left out."""
    folders = [RunFolder(path) for path in folder.glob("[!.]*") if (path / "experiment.toml").exists()]
    return sorted(folders, key=lambda run: (run.started(), run.path.name))
