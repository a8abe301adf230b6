"""What is written down of a trial: in its study, and in the sweep's folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.reading import read_text
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.sweep.space.parameters import Config
from nanogpt_kit.sweep.space.space import Space

AT, END = "at", "end"  # attributes of a trial, each written at once: a database takes its time for each


@dataclass
class Run:
    """What is known of one of a trial's runs."""

    folder: RunFolder
    experiment: Experiment
    value: float | None = None
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    rate: float = 0.0  # tokens/s
    found: set[str] = field(default_factory=set)  # names of metrics


def sign(trial: optuna.Trial, folder: Path) -> None:
    """Says who works at it: the controller of a sweep's folder, which was alive just now."""
    trial.set_user_attr(AT, {"folder": str(folder), "id": identity(folder), "seen": time.time()})


def identity(folder: Path) -> str | None:
    """What tells a sweep's folder from one of the same path on another machine; None where there is none here."""
    try:
        return read_text(folder / "trials" / "id")
    except (OSError, ValueError):
        return None


def known_of(trial: optuna.Trial | FrozenTrial) -> dict[str, Any]:
    """What the study remembers of a trial: who works at it, and how it ended."""
    attributes = trial.user_attrs
    return {**attributes, **attributes.get(AT, {}), **attributes.get(END, {})}


def copy_of(component_file: Path, folder: Path) -> Path:
    """Where a sweep's folder keeps it as it was when the sweep began: it may be edited meanwhile."""
    return folder / "trials" / "components" / component_file.name


def make_runs(
    space: Space, number: int, config: Config, seeds: Sequence[int], threads: int | None, folder: Path
) -> list[Run]:
    """The runs of a trial, one a seed. Raises KitError where its values do not go together."""
    made = []
    for seed in seeds:
        also: list[tuple[str, Any]] = [("train.seed", seed), ("sample.num_samples", 0)]  # nobody reads them
        if threads and space.base.train.threads is None and "train.threads" not in config:
            also.append(("train.threads", threads))  # written down, since another number rounds otherwise
        experiment = space.experiment(config, also)
        made.append(Run(RunFolder(folder / f"trial-{number:04d}-s{seed}"), experiment))
    return made
