"""The interface between a study and its purpose: a plan decides which trials to queue, and what each of them runs.

`Study` and the controller handle every plan alike, so a new kind of study is a subclass of `Plan`: `SearchPlan` queues
trials whose values a sampler chooses, `ConfirmationPlan` the best of them again with fresh seeds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import optuna
from optuna.trial import FrozenTrial

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.sections import Sweep
from nanogpt_kit.sweep.space.parameters import Config
from nanogpt_kit.sweep.space.space import Space
from nanogpt_kit.sweep.study.records import FORMAT


@dataclass(frozen=True)
class QueuedTrial:
    """A trial to be queued."""

    params: dict[str, Any] = field(default_factory=dict)  # as Optuna names them; the sampler chooses what is missing
    attributes: dict[str, Any] = field(default_factory=dict)  # stored, for `config` and `seeds` of the plan


class Plan(ABC):
    """Decides which trials a study has, and the values and seeds of each."""

    kind: ClassVar[str]  # stored in the study
    suffix: ClassVar[str] = ""  # of the study's name and lock files, since the plans of a sweep share its folder
    ranks_trials: ClassVar[bool] = True  # whether its trials compete, so that one of them is the best so far

    def __init__(self, space: Space, options: Sweep, nproc: int = 1) -> None:
        """`options` are those of the space, as far as they hold for this plan; each run has `nproc` processes."""
        self.space, self.options, self.nproc = space, options, nproc

    @property
    def study_name(self) -> str:
        return self.space.base.name + self.suffix

    def facts(self) -> dict[str, Any]:
        """Attributes of the study that are stored when it is created and cannot change later."""
        return {"format": FORMAT, "plan": self.kind, "space": self.space.describe()}

    def check_facts(self, stored: Mapping[str, Any]) -> None:
        """Raises KitError if the study with these attributes is not the one of this plan."""
        self.check_format(stored.get("format"))
        if stored.get("plan") != self.kind:
            raise KitError(
                f"sweep.storage has a study {self.study_name!r} for a {stored.get('plan')}, and this one would be for "
                f"a {self.kind}; give the experiment another name"
            )

    def check_format(self, stored: Any) -> None:
        """Raises KitError if the study's records are of another format."""
        if stored != FORMAT:
            raise KitError(
                f"the study {self.study_name!r} in sweep.storage was created by another version of nanogpt-kit; give "
                "the experiment another name, or set another sweep.storage"
            )

    @abstractmethod
    def missing_trials(self, queued: Sequence[FrozenTrial]) -> list[QueuedTrial]:
        """The trials to add to a study that has those of `queued`."""

    @abstractmethod
    def count(self, queued: int) -> int:
        """How many of `queued` trials, the first ones, are to be run."""

    @abstractmethod
    def config(self, trial: optuna.Trial) -> Config:
        """The values of a trial, chosen now if they have not been yet."""

    @abstractmethod
    def seeds(self, trial: optuna.Trial) -> Sequence[int]:
        """The values of train.seed for the runs of a trial."""

    def folder_index(self, trial: optuna.Trial) -> int:
        """The index of the trial that the folders of its runs are named after."""
        return trial.number

    def label(self, trial: optuna.Trial) -> str:
        """The name of a trial in messages."""
        return f"trial {trial.number}"
