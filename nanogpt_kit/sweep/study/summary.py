"""The results of a sweep so far. `stored_summary` reads them."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanogpt_kit.core.sections import Sweep
from nanogpt_kit.runs.folder import relative_to_cwd, runs_root
from nanogpt_kit.sweep.study.branches import Branch
from nanogpt_kit.sweep.study.confirmation import (
    ConfirmedTrial,
    choose_trials,
    direction_sign,
)
from nanogpt_kit.sweep.study.confirmation_state import ConfirmationState
from nanogpt_kit.sweep.study.runs import run_path
from nanogpt_kit.sweep.study.warmup import TrialSteps

ENDED = ("complete", "pruned", "failed")  # states
STATES = (*ENDED, "running", "interrupted", "waiting")


def sweep_folder(name: str) -> Path:
    """The folder of the sweep over the experiment `name`: its study, its trials' runs, best.toml and report.html."""
    return runs_root() / name / "sweep"


@dataclass(frozen=True)
class TrialSummary:
    """The state and results of one trial."""

    index: int
    state: str  # of STATES
    config: dict[str, Any]  # dotted keys and values; those of branches that it is not in are absent
    params: dict[str, Any]  # the same as Optuna names them
    value: float | None = None  # of the metric: of complete trials at their end, of pruned ones when they were pruned
    cause: str = ""  # records.Ending; empty until it has ended
    reason: str = ""
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0  # in steps
    parameters: int | None = None  # of its model
    values: tuple[float, ...] = ()  # one for each seed if there are several
    reports: tuple[tuple[int, float], ...] = ()  # (tokens, metric) at each evaluation of its first seed
    folder: str = ""  # the sweep's on its machine

    def run(self, seed: int) -> Path:
        return run_path(Path(self.folder), self.index, seed)

    @property
    def is_pruned(self) -> bool:
        """Ended by the pruner; its value is one after fewer tokens than a complete trial's."""
        return self.state == "pruned" and self.cause in ("pruned", "")

    @property
    def has_no_result(self) -> bool:
        """Ended with nothing to compare: out of memory, not finite, refused, died, failed."""
        return self.state in ("pruned", "failed") and not self.is_pruned


@dataclass(frozen=True)
class SweepSummary:
    """The state and results of a whole sweep."""

    name: str
    options: Sweep
    count: int  # trials to be run
    trials: tuple[TrialSummary, ...]  # by index, without those that wait
    confirmed: tuple[ConfirmedTrial, ...] = ()  # the best first
    fresh_seeds: Mapping[int, int] = field(default_factory=dict)  # how many have ended, by trial
    space: dict[str, str] = field(default_factory=dict)  # {"optimizer.lr": "float [0.0001, 0.01], log"}
    trial_tokens: int = 0  # of a trial that is not pruned
    seed: int = 0  # train.seed of the first run of each trial
    nproc: int = 1  # processes of each run
    branches: tuple[Branch, ...] = ()  # of the space; empty where no choice makes branches
    trial_steps: tuple[TrialSteps, ...] = ()  # of the experiment as written and of the endpoints that differ from it
    confirmation: ConfirmationState | None = None  # None where it has not begun
    not_comparable: Mapping[int, str] = field(default_factory=dict)  # trials, with the reason, against trial 0

    def trials_of(self, branch: Branch) -> list[TrialSummary]:
        """The trials in a branch, by index."""
        return [trial for trial in self.trials if branch.has(trial.params)]

    def best_of(self, branch: Branch) -> TrialSummary | None:
        """The best complete trial of a branch by the sweep's own metric."""
        return next((trial for trial in self.ranked_trials() if branch.has(trial.params)), None)

    def command(self, folder: Path) -> str:
        """The command that runs the best trial again; `folder` is the sweep's."""
        nproc = f" --nproc {self.nproc}" if self.nproc > 1 else ""
        return f"nanogpt-kit run {quote_for_shell(relative_to_cwd(folder / 'best.toml'))}{nproc}"

    def best(self) -> TrialSummary | None:
        """The best trial: by fresh seeds if the confirmation has ended, otherwise by the metric.

        By fresh seeds it is the best of the trials that have a value with each of them.
        """
        complete = self.ranked_trials()
        if self.is_confirmed() and not self.confirmed[0].failed:
            return next(trial for trial in complete if trial.index == self.confirmed[0].index)
        return complete[0] if complete else None

    @property
    def sign(self) -> int:
        """1 or -1: the factor of a value that makes lower better."""
        return direction_sign(self.options.direction)

    def complete_trials(self) -> list[TrialSummary]:
        """The trials that ended with a value, by index."""
        return [trial for trial in self.trials if trial.state == "complete" and trial.value is not None]

    def ranked_trials(self) -> list[TrialSummary]:
        """The complete trials, the best first by the sweep's own metric."""
        return sorted(self.complete_trials(), key=lambda trial: self.sign * (trial.value or 0.0))

    def is_confirmed(self) -> bool:
        """Whether trial 0, the best `sweep.confirm` trials and the best of each branch have ended with fresh seeds."""
        required = self.options.confirm_seeds if self.options.confirm else 1
        done = {index for index, seeds in self.fresh_seeds.items() if seeds >= required}
        state = self.confirmation
        is_finished = state is None or state.is_finished
        return bool(self.confirmed) and is_finished and (not self.options.confirm or set(self.to_confirm()) <= done)

    def to_confirm(self) -> list[int]:
        """The indices of the trials that a confirmation would take now; none where sweep.confirm is 0."""
        if not self.options.confirm:
            return []
        ranked = [(trial.index, trial.params) for trial in self.ranked_trials()]
        return choose_trials(ranked, self.options.confirm, self.branches)

    @property
    def is_running(self) -> bool:
        """Whether a controller runs trials of it, here or elsewhere."""
        is_confirming = self.confirmation is not None and self.confirmation.is_running
        return is_confirming or any(trial.state == "running" for trial in self.trials)

    def counts(self) -> dict[str, int]:
        """Trials by state."""
        counts = Counter(trial.state for trial in self.trials)
        counts["waiting"] = max(0, self.count - len(self.trials))
        return {state: counts[state] for state in STATES}

    @property
    def tokens(self) -> int:
        return sum(trial.tokens for trial in self.trials)

    @property
    def seconds(self) -> float:
        return sum(trial.seconds for trial in self.trials)


def quote_for_shell(path: Path) -> str:
    """A path quoted for a shell; one that is not UTF-8 by its bytes, so that any file can contain it."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return "$" + repr(os.fsencode(path))[1:]  # $'...', for bash and zsh
    return shlex.quote(str(path))
