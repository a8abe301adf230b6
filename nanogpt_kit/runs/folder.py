"""One run's folder: its files, its state, and how to find it again."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanogpt_kit.core.errors import KitError, nearest
from nanogpt_kit.core.paths import expanded
from nanogpt_kit.runs.files import check_inside, check_writable, clear_temporary, own_folder, read_json, write_json
from nanogpt_kit.runs.lock import Lock, held

BEFORE_IT_BEGAN = ("provenance.json", "dirty.patch", "components")  # what a run writes before its experiment.toml


def runs_root() -> Path:
    return Path(expanded(os.environ.get("NANOGPT_KIT_RUNS") or "runs", "NANOGPT_KIT_RUNS"))


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

    def set_status(self, state: str, **details: Any) -> None:
        """`state`: running, finished, failed or interrupted; `details`: step, reason, ..."""
        write_json(self.path / "status.json", {"state": state, "time": time.time(), **details})

    def status(self) -> Mapping[str, Any]:
        """What status.json says; but "running" without anybody at work is "interrupted"."""
        try:
            status: dict[str, Any] = read_json(self.path / "status.json")
            if not isinstance(status, dict) or not isinstance(status.get("state"), str):
                raise ValueError("it names no state")
        except FileNotFoundError:
            status = {"state": "running"}  # killed between making the folder and its first word
        except (OSError, ValueError) as error:
            status = {"state": "interrupted", "reason": f"status.json cannot be read: {error}"}
        if status["state"] == "running" and not held(self.path / "lock"):
            status |= {"state": "interrupted", "reason": "its process ended without a word"}
        return status

    def __str__(self) -> str:
        return str(self.path)


def create(experiment: str, seed: int, fingerprint: str, into: Path | None = None) -> RunFolder:
    """A new folder runs/<experiment>/<UTC time>-s<seed>-<short hash>, or `into`, which may be there, empty or killed
    before its run began. Raises KitError where it cannot be made."""
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
        path = parent / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-s{seed}-{unique}"
        try:
            with own_folder(runs_root()):
                path.mkdir(parents=True)
            return RunFolder(path)
        except FileExistsError:
            if not parent.is_dir():
                raise KitError(f"cannot write to {parent}: it is no folder") from None
        except OSError as error:
            raise KitError(f"cannot make the run folder {path}: {error.strerror}") from None


def from_here(path: Path) -> Path:
    """As one would type it: relative, where it lies below the current folder."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def may_precede(name: str) -> bool:
    """Whether a run that was killed before its first step may have left a file of this name, whole or half written."""
    return name in BEFORE_IT_BEGAN or any(name.startswith(f".{own}.") for own in (*BEFORE_IT_BEGAN, "experiment.toml"))


def check_runs_root(experiment: str) -> None:
    check_writable(runs_root() / experiment)


def of_experiment(folder: Path) -> list[RunFolder]:
    """The runs of runs/<experiment>, the newest last."""
    found = [path for path in folder.glob("*") if (path / "experiment.toml").exists()]
    return [RunFolder(path) for path in sorted(found, key=lambda path: (path / "experiment.toml").stat().st_mtime_ns)]


def find(text: str) -> RunFolder:
    """A run by its folder, or the newest of an experiment by name or folder. Raises KitError."""
    for path in (Path(text), runs_root() / text):
        if os.path.exists(path / "experiment.toml"):  # unlike Path.exists, a name may be longer than a file's can be
            return RunFolder(path)
        runs = of_experiment(path) if os.path.isdir(path) else []
        if runs:
            return runs[-1]
    known = [path.name for path in runs_root().glob("*") if of_experiment(path)] if runs_root().is_dir() else []
    raise KitError(f"{text!r} is no run, and no experiment with runs in {runs_root()}/{nearest(text, known)}")
