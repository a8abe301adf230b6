"""A question: the arms to be compared, and the metric that decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.options import digest
from nanogpt_kit.runs.folder import RunFolder, runs_root

Kind = Literal["compare", "ablate", "noise"]
Direction = Literal["minimize", "maximize"]


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: an experiment, whose runs differ only in train.seed."""

    label: str  # for people: "quickstart", "model.mlp=swiglu"
    experiment: Experiment  # with the seed that it was written with; the arm's runs may have others
    changes: Mapping[str, tuple[str | None, str | None]] = field(default_factory=dict)  # key: TOML in the base, here
    runs: tuple[RunFolder, ...] = ()  # those that the user named; empty: those of this configuration in the ledger
    levels: Mapping[str, str] = field(default_factory=dict)  # of each factor of a factorial ablation, as text

    @property
    def configuration(self) -> str:
        return self.experiment.configuration()


@dataclass(frozen=True)
class Question:
    """What is compared: the first arm is the base, and all others are its contenders."""

    kind: Kind
    arms: tuple[Arm, ...]
    metric: str = "val/loss"
    direction: Direction = "minimize"
    text: str = ""  # the user's reason to ask; `note` of the experiment by default
    notes: tuple[str, ...] = ()  # what the reader of the answer should know of its arms

    @property
    def base(self) -> Arm:
        return self.arms[0]

    def id(self) -> str:
        """The same for the same arms and metric, whatever their seeds and labels: a later call continues."""
        arms = [self.base.configuration, *sorted(arm.configuration for arm in self.arms[1:])]
        return digest([self.kind, self.metric, self.direction, arms])[:12]

    def folder(self) -> Path:
        """The folder of its study, its new runs and its record."""
        return runs_root() / self.base.experiment.name / self.kind / self.id()


def reason_to_ask(text: str, arms: Sequence[Arm]) -> str:
    """The user's reason, by default the note of the last arm that has one."""
    return text or next((arm.experiment.note for arm in reversed(arms) if arm.experiment.note), "")
