"""A plan whose trials are points of a search space: what the search and its confirmation have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.graph_identity import decides_graph
from nanogpt_kit.core.sections import Sweep
from nanogpt_kit.sweep.space.parameters import Config
from nanogpt_kit.sweep.space.space import Space
from nanogpt_kit.sweep.study.plan import Plan
from nanogpt_kit.sweep.study.runs import TrialRun, make_runs
from nanogpt_kit.sweep.study.sampler import ResumableSampler


class SpacePlan(Plan):
    """A plan with a search space: each trial has a run for each of its seeds."""

    def __init__(self, space: Space, options: Sweep, nproc: int = 1) -> None:
        """`options` are those of the space, as far as they hold for this plan; each run has `nproc` processes."""
        super().__init__(options, nproc)
        self.space = space

    @property
    def study_name(self) -> str:
        return self.space.base.name + self.suffix

    @property
    def trial_tokens(self) -> int:
        return self.space.trial_tokens

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "space": self.space.describe()}

    def sampler(self) -> BaseSampler:
        return ResumableSampler(self.space, self.options)

    @abstractmethod
    def config(self, trial: optuna.Trial) -> Config:
        """The values of a trial, chosen now if they have not been yet."""

    @abstractmethod
    def seeds(self, trial: optuna.Trial) -> Sequence[int]:
        """The values of train.seed for the runs of a trial."""

    def folder_index(self, trial: optuna.Trial) -> int:
        """The index of the trial that the folders of its runs are named after."""
        return trial.number

    def runs(self, trial: optuna.Trial, threads: int | None, folder: Path) -> list[TrialRun]:
        index, config, seeds = self.folder_index(trial), self.config(trial), self.seeds(trial)
        return make_runs(self.space, index, config, seeds, threads, folder)

    def runs_of_graph(self, experiment: Experiment, others: Collection[int]) -> int:
        """All of them, where the space varies nothing that decides a graph; which values the others have is unknown."""
        varies = any(decides_graph(parameter.key) for parameter in self.space.parameters)
        return 0 if varies else len(others) * self.options.seeds

    def component_sources(self) -> dict[str, bytes]:
        return {path.name: source for path, source in self.space.base.component_sources.items()}

    def label(self, trial: optuna.Trial) -> str:
        return f"trial {trial.number}"

    def row_label(self, trial: optuna.Trial) -> str:
        return str(self.folder_index(trial))
