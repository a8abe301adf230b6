"""One run's folder: its files, its state, and how to find it again."""

from __future__ import annotations

import hashlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanogpt_kit.core.errors import KitError, did_you_mean
from nanogpt_kit.core.paths import expand_path
from nanogpt_kit.runs.files import check_inside, check_writable, clear_temporary, git_ignored_folder, read_json
from nanogpt_kit.runs.lock import Lock, is_locked
from nanogpt_kit.runs.status import State, Status, Unreadable

BEFORE_IT_BEGAN = ("provenance.json", "dirty.patch", "components")  # what a run writes before its experiment.toml
RUN_ID = re.compile(r"(\d{8})-(\d{6})(\d{3})?-s(\d+)-[0-9a-f]{6}")  # UTC date, time with milliseconds; seed; hash
STARTED = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)Z")  # as provenance.json has it


def runs_root() -> Path:
    return Path(expand_path(os.environ.get("NANOGPT_KIT_RUNS") or "runs", "NANOGPT_KIT_RUNS"))


@dataclass(frozen=True)
class RunFolder:
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

    @property
    def samples(self) -> Path:
        return self.path / "samples.txt"

    def check_inside(self) -> None:
        """Raises KitError where writing into it would change something elsewhere, by a link for instance.

        Links in place of checkpoints are left to `store`, which passes them over.
        """
        check_inside(self.path, besides=self.checkpoints.name)

    def clear_temporary(self) -> None:
        """Removes what killed processes left half written. Called while the lock is held."""
        for folder in (self.path, self.path / "components"):
            if folder.exists():
                clear_temporary(folder)

    def lock(self) -> Lock:
        return Lock(self.path / "lock")

    def set_status(self, state: State, **details: Any) -> None:
        """`details` are fields of Status."""
        Status(state=state, **details).write(self.path / "status.json")

    def status(self) -> Status:
        """What status.json says; but "running" without anybody at work is "interrupted".

        So is one that cannot be read; its `cause` is then "unreadable" or "other_format", its `reason` says why.
        """
        found = self._written()
        if found.state != "running":
            return found
        try:
            if is_locked(self.path / "lock"):
                return found
        except KitError as error:
            return found.model_copy(update={"state": "interrupted", "cause": "unreadable", "reason": str(error)})
        found = self._written()  # again: it writes its last word, then drops the lock
        if found.state != "running":
            return found
        died = {"state": "interrupted", "cause": "died", "reason": "its process ended without a word"}
        return found.model_copy(update=died)

    def _written(self) -> Status:
        try:
            return Status.read(self.path / "status.json")
        except FileNotFoundError:
            return Status(state="running", time=0.0)  # until its first word, or killed before it
        except Unreadable as error:
            return Status(state="interrupted", time=0.0, cause=error.cause, reason=str(error))

    def started(self) -> str:
        """When, in UTC, as digits from the year to the millisecond: of its name where that is a run id, else as
        provenance.json says; empty where neither does. File times are not asked: a copy has others."""
        named = RUN_ID.fullmatch(self.path.name)
        if named:
            return named[1] + named[2] + (named[3] or "000")
        said = STARTED.fullmatch(str(self._origin().get("started", "")))
        return "".join(said.groups()) + "000" if said else ""

    def seed(self) -> int | None:
        """Its train.seed: of its name where that is a run id, else as provenance.json says."""
        named = RUN_ID.fullmatch(self.path.name)
        said = int(named[4]) if named else self._origin().get("seed")
        return said if isinstance(said, int) else None

    def _origin(self) -> dict[str, Any]:
        """provenance.json, as far as it can be read."""
        try:
            found = read_json(self.path / "provenance.json")
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def __str__(self) -> str:
        return str(self.path)


def create(experiment: str, seed: int, fingerprint: str, into: Path | None = None) -> RunFolder:
    """A new folder runs/<experiment>/<UTC time>-s<seed>-<short hash> (see RUN_ID), or `into`, which may be there,
    empty or killed before its run began. Raises KitError where it cannot be made."""
    parent = runs_root() / experiment
    if into is not None:
        try:
            into.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise KitError(f"cannot make the run folder {into}: {error.strerror}") from None
        if any(not may_precede(path.name) for path in into.iterdir()):
            raise KitError(f"cannot run in {into}: it holds other things than a run")
        check_inside(into)
        return RunFolder(into)
    while True:
        unique = hashlib.sha256(f"{fingerprint} {time.time_ns()} {os.getpid()}".encode()).hexdigest()[:6]
        path = parent / f"{start_time(parent)}-s{seed}-{unique}"
        try:
            with git_ignored_folder(runs_root()):
                path.mkdir(parents=True)
            return RunFolder(path)
        except FileExistsError:
            if not parent.is_dir():
                raise KitError(f"cannot write to {parent}: it is no folder") from None
        except OSError as error:
            raise KitError(f"cannot make the run folder {path}: {error.strerror}") from None


def start_time(parent: Path) -> str:
    """Now, as a run id begins, to the millisecond; the next one where another run there began in this one, since the
    order of runs is that of their ids."""
    for _ in range(100):  # a clock may stand still
        now = time.time_ns()
        moment = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now // 10**9))}{now // 10**6 % 1000:03d}"
        if not any(parent.glob(f"{moment}-*")):
            break
        time.sleep(0.001)
    return moment


def relative_to_cwd(path: Path) -> Path:
    """As one would type it: relative, where it lies below the current folder."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def may_precede(name: str) -> bool:
    """Whether a run that was killed before its first step may have left a file of this name, whole or half written."""
    return name in BEFORE_IT_BEGAN or any(name.startswith(f".{own}.") for own in (*BEFORE_IT_BEGAN, "experiment.toml"))


def check_runs_root(experiment: str) -> None:
    check_writable(runs_root() / experiment)


def runs_of_experiment(folder: Path) -> list[RunFolder]:
    """The runs of runs/<experiment>, the newest last: by the time that they were started, then by name."""
    found = [RunFolder(path) for path in folder.glob("*") if (path / "experiment.toml").exists()]
    return sorted(found, key=lambda run: (run.started(), run.path.name))


def find(text: str) -> RunFolder:
    """A run by its folder, or the newest of an experiment by name or folder. Raises KitError."""
    for path in (Path(text), runs_root() / text):
        if os.path.exists(path / "experiment.toml"):  # unlike Path.exists, a name may be longer than a file's can be
            return RunFolder(path)
        runs = runs_of_experiment(path) if os.path.isdir(path) else []
        if runs:
            return runs[-1]
    known = [path.name for path in runs_root().glob("*") if runs_of_experiment(path)] if runs_root().is_dir() else []
    raise KitError(f"{text!r} is no run, and no experiment with runs in {runs_root()}/{did_you_mean(text, known)}")
