"""What a sweep has found so far, read from its study and its run folders; its controllers may be dead."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from pydantic import TypeAdapter

from nanogpt_kit.core.errors import KitError, shorten
from nanogpt_kit.core.sections import Sweep
from nanogpt_kit.runs import metrics
from nanogpt_kit.runs.folder import RunFolder, relative_to_cwd, runs_root
from nanogpt_kit.sweep.study.plan import SUFFIX, Confirmed, confirmed
from nanogpt_kit.sweep.study.runs import known_of
from nanogpt_kit.sweep.study.sampler import unit_of

STATES = ("complete", "pruned", "failed", "running", "interrupted", "waiting")


def sweep_folder(name: str) -> Path:
    """Of the sweep over the experiment of that name: its study, its trials' runs, its best.toml and report."""
    return runs_root() / name / "sweep"


@dataclass(frozen=True)
class Row:
    """One trial."""

    number: int
    state: str  # of STATES
    config: dict[str, Any]  # dotted keys and values; those of branches that it is not in are absent
    names: dict[str, Any]  # the same as Optuna names them
    value: float | None = None  # of the metric: of complete trials at their end, of pruned ones when they were given up
    cause: str = ""  # trial.Ending; empty while it is at work
    reason: str = ""
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0  # in steps
    parameters: int | None = None  # of its model
    values: tuple[float, ...] = ()  # one a seed, where there are several
    reports: tuple[tuple[int, float], ...] = ()  # (tokens, metric) at each evaluation of its first seed
    folder: str = ""  # the sweep's on its machine

    def run(self, seed: int) -> Path:
        return Path(self.folder) / f"trial-{self.number:04d}-s{seed}"


@dataclass(frozen=True)
class Summary:
    """A whole sweep."""

    name: str
    options: Sweep
    count: int  # trials wanted
    rows: tuple[Row, ...]  # by number; what waits is not among them
    confirmed: tuple[Confirmed, ...] = ()  # the best first
    tried: Mapping[int, int] = field(default_factory=dict)  # how many fresh seeds have ended, by trial
    space: dict[str, str] = field(default_factory=dict)  # {"optimizer.lr": "float [0.0001, 0.01], log"}
    trial_tokens: int = 0  # of a trial that is not pruned
    total_steps: int = 0
    seed: int = 0  # train.seed of the first run of each trial
    nproc: int = 1  # processes of each run

    def command(self, folder: Path) -> str:
        """What runs the best trial again; `folder` is the sweep's."""
        nproc = f" --nproc {self.nproc}" if self.nproc > 1 else ""
        return f"nanogpt-kit run {quoted(relative_to_cwd(folder / 'best.toml'))}{nproc}"

    def best(self) -> Row | None:
        """By the fresh seeds where those that are best so far have had them all, else by the sweep's own metric."""
        complete = self.best_first()
        if self.is_confirmed():
            return next(row for row in complete if row.number == self.confirmed[0].number)
        return complete[0] if complete else None

    def best_first(self) -> list[Row]:
        """The complete trials, by the sweep's own metric."""
        sign = 1 if self.options.direction == "minimize" else -1
        complete = [row for row in self.rows if row.state == "complete" and row.value is not None]
        return sorted(complete, key=lambda row: sign * (row.value or 0.0))

    def is_confirmed(self) -> bool:
        """Whether the best of the trials, as many as were to be confirmed, have ended with every fresh seed."""
        done = [number for number, seeds in self.tried.items() if seeds >= self.options.confirm_seeds]
        wanted = [row.number for row in self.best_first()][: self.options.confirm or len(done)]
        return bool(self.confirmed) and bool(wanted) and set(wanted) <= set(done)

    def counts(self) -> dict[str, int]:
        found = Counter(row.state for row in self.rows)
        waiting = max(0, self.count - len(self.rows))
        return {state: found[state] if state != "waiting" else waiting for state in STATES}

    @property
    def tokens(self) -> int:
        return sum(row.tokens for row in self.rows)

    @property
    def seconds(self) -> float:
        return sum(row.seconds for row in self.rows)

    def seconds_left(self) -> float | None:
        """By what a trial has taken so far, workers counted; None where none has ended yet."""
        ended = [row.seconds for row in self.rows if row.state in ("complete", "pruned") and row.seconds]
        if not ended:
            return None
        mean = sum(ended) / len(ended)
        begun = sum(max(0.0, mean - row.seconds) for row in self.rows if row.state in ("running", "interrupted"))
        return (self.counts()["waiting"] * mean + begun) / self.options.workers


ROW, SUMMARY = TypeAdapter(Row), TypeAdapter(Summary)  # a study may be damaged, or somebody else's


def read(name: str, options: Sweep, storage: BaseStorage) -> Summary:
    """From the study of that name. Raises KitError where there is none."""
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        raise KitError(f"no sweep of the experiment {name!r} has begun in this storage") from None
    if "experiment" not in study.user_attrs:
        raise KitError(f"the study {name!r} of this storage is no sweep, or its controller is just beginning it")
    try:
        return summary_of(study, options, confirmations(name, storage))
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        reason = shorten(" ".join(str(error).split()), 200)
        what = f"the study {name!r} of this storage holds what no sweep writes ({type(error).__name__}: {reason})"
        raise KitError(f"{what}; it is damaged, or of another version: name another sweep.storage") from None


def summary_of(study: optuna.Study, options: Sweep, fresh: Sequence[FrozenTrial]) -> Summary:
    """Raises whatever comes of a study whose attributes are of other types than a sweep's."""
    about = study.user_attrs
    train = about["experiment"]["train"]
    tokens = int(about["trial_tokens"])
    trials = study.get_trials(deepcopy=False)
    rows = [row_of(trial, unit_of(tokens)) for trial in trials if trial.state != TrialState.WAITING]
    return SUMMARY.validate_python(
        {
            "name": study.study_name,
            "options": options,
            "count": about.get("count", len(trials)),
            "rows": tuple(rows),
            "confirmed": tuple(confirmed(fresh, options.direction)),
            "tried": Counter(trial.user_attrs["trial"] for trial in fresh if trial.state.is_finished()),
            "space": about["space"],
            "trial_tokens": tokens,
            "total_steps": tokens // train["batch_tokens"],
            "seed": train["seed"],
            "nproc": about.get("nproc", 1),
        }
    )


def confirmations(name: str, storage: BaseStorage) -> Sequence[FrozenTrial]:
    """The runs with fresh seeds."""
    try:
        study = optuna.load_study(study_name=name + SUFFIX, storage=storage)
    except KeyError:
        return []
    return study.get_trials(deepcopy=False)


def row_of(trial: FrozenTrial, unit: int) -> Row:
    told = known_of(trial)
    values = {
        "number": trial.number,
        "state": {"FAIL": "failed"}.get(trial.state.name, trial.state.name.lower()),
        "config": {name.split("@")[0]: value for name, value in trial.params.items()},
        "names": dict(trial.params),
        "value": trial.value,
        "cause": told.get("cause", ""),
        "reason": told.get("reason", ""),
        "step": told.get("step", 0),
        "tokens": told.get("tokens", 0),
        "seconds": told.get("seconds", 0.0),
        "parameters": told.get("parameters"),
        "values": tuple(value for value in told.get("values", ()) if value is not None),  # a run that has ended early
        "reports": tuple((step * unit, value) for step, value in sorted(trial.intermediate_values.items())),
        "folder": told.get("folder", ""),
    }
    row = ROW.validate_python(values)
    return at_work(row) if row.state == "running" else row


def at_work(row: Row) -> Row:
    """How far a trial is that has not ended, where its runs lie on this machine."""
    runs = [RunFolder(path) for path in sorted(Path(row.folder).glob(f"trial-{row.number:04d}-s*"))]
    if not row.folder or not runs:
        return row
    newest = [record for run in runs for record in list(metrics.read(run.metrics))[-1:]]
    is_running = any(run.status().state == "running" for run in runs)
    return replace(
        row,
        state="running" if is_running else "interrupted",
        step=newest[-1]["step"] if newest else 0,
        tokens=sum(record.get("tokens", 0) for record in newest),
        seconds=sum(record.get("seconds", 0.0) for record in newest),
    )


def quoted(path: Path) -> str:
    """For a shell; a name that is not UTF-8 by its bytes, so that any file can hold it."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return "$" + repr(os.fsencode(path))[1:]  # $'...', as bash and zsh have it
    return shlex.quote(str(path))
