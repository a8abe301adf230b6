"""What a command that trains has to show for a run: a record for programs."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nanogpt_kit.core.experiment import Experiment
    from nanogpt_kit.runs.folder import RunFolder


@dataclass(frozen=True)
class RunResult:
    """A run that has ended, or that had ended before the command began."""

    experiment: str  # its name
    seed: int
    folder: RunFolder | None = None  # None: it failed before it had one
    is_resumed: bool = False  # an earlier command began it
    is_reused: bool = False  # and finished it, so that nothing was trained
    error: BaseException | None = None  # why it failed

    def record(self) -> dict[str, Any]:
        """For programs; the keys are listed in docs/guide/agents.md."""
        from nanogpt_kit.runs.status import Status, cause_of

        status = Status(state="failed") if self.folder is None else self.folder.status()
        if self.error is not None and status.state != "failed":
            status = Status(state="failed", cause=cause_of(self.error), reason=str(self.error))
        shown = status.model_dump(
            mode="json",
            include={"state", "ended_by", "cause", "reason", "step", "total_steps", "seconds", "parameters"},
        )
        return {
            "experiment": self.experiment,
            "folder": None if self.folder is None else str(self.folder),
            "seed": self.seed,
            "resumed": self.is_resumed,
            "reused": self.is_reused,
            **status.model_dump(mode="json", include=shown),
            **self.measured(),
        }

    def measured(self) -> dict[str, Any]:
        """The tokens that it was trained on, and the metrics of its last evaluation."""
        from nanogpt_kit.comparison.measurement import NOT_METRICS, is_evaluation
        from nanogpt_kit.runs.metrics import read_metrics

        tokens, metrics = 0, {}
        for record in () if self.folder is None else read_metrics(self.folder.metrics):
            tokens = record.get("tokens", tokens)
            if is_evaluation(record):
                metrics = {name: value for name, value in record.items() if name not in NOT_METRICS}
        return {"tokens": tokens, "metrics": metrics}

    @property
    def is_finished(self) -> bool:
        return self.error is None and self.folder is not None and self.folder.status().state == "finished"


class EarlierRuns:
    """The runs that may be those of a command, as they are before it starts one; it finds the one that was."""

    def __init__(self, experiment: Experiment, *named: str | None) -> None:
        """`named` are the run to resume and the folder of the run, where the command has them."""
        self.name, self.seed = experiment.name, experiment.train.seed
        self.named = [Path(name) for name in named if name]
        self.began = time.time()
        self.paths = {folder.path.absolute() for folder in self.candidates()}

    def candidates(self) -> list[RunFolder]:
        from nanogpt_kit.runs.folder import RunFolder, runs_of_experiment, runs_root

        named = [
            RunFolder(path) for path in self.named if os.path.exists(path / "experiment.toml")
        ]  # unlike Path.exists, a name may be long
        return [
            *named,
            *(folder for folder in runs_of_experiment(runs_root() / self.name) if folder.seed() == self.seed),
        ]

    def find_ended(self) -> RunFolder | None:
        """The run whose status was written since, the newest of several; None where there is none."""
        ended = [folder for folder in self.candidates() if folder.status().time >= self.began]
        return max(ended, key=lambda folder: folder.status().time, default=None)

    def has(self, folder: RunFolder) -> bool:
        return folder.path.absolute() in self.paths
