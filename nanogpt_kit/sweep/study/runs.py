"""The runs of a trial: ordinary run folders in the sweep's folder, one for each seed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.sweep.space.parameters import Config
from nanogpt_kit.sweep.space.space import Space
from nanogpt_kit.system.writing import write_atomically


@dataclass
class TrialRun:
    """One run of a trial, and its measurements so far."""

    folder: RunFolder
    experiment: Experiment
    copies: str = ""  # folder of the copies of its components, below `component_copies`
    value: float | None = None  # of the sweep's metric
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0  # in steps
    tokens_per_second: float = 0.0
    metric_names: set[str] = field(default_factory=set)


def make_runs(
    space: Space, index: int, config: Config, seeds: Sequence[int], threads: int | None, folder: Path
) -> list[TrialRun]:
    """The runs of trial `index`, one for each seed. Raises KitError if its values are not valid together.

    `threads` is that of the machine slot, which the experiment and the trial's values override.
    """
    runs = []
    for seed in seeds:
        extra: list[tuple[str, Any]] = [("train.seed", seed), ("sample.num_samples", 0)]  # their samples are not used
        if threads and space.base.train.threads is None and "train.threads" not in config:
            extra.append(("train.threads", threads))  # recorded, since another number of threads rounds differently
        runs.append(TrialRun(RunFolder(run_path(folder, index, seed)), space.experiment(config, extra)))
    return runs


def run_path(folder: Path, index: int, seed: int) -> Path:
    """The folder of a run of trial `index`; `folder` is the sweep's."""
    return folder / f"trial-{index:04d}-s{seed}"


def component_copies(folder: Path) -> Path:
    """The folder of copies of local components from the start of a sweep; the user may edit the originals."""
    return folder / "trials" / "components"


def write_run_experiment(run: TrialRun, path: Path, folder: Path) -> None:
    """Writes the experiment of a run, with its local components as they were when the sweep of `folder` began."""
    values = run.experiment.resolved()
    if run.experiment.component_files:
        copies = (component_copies(folder) / run.copies / file.name for file in run.experiment.component_files)
        values["components"] = [os.path.relpath(copy, path.parent) for copy in copies]
    write_atomically(path, tomli_w.dumps(values))
