"""The interface between a study and its purpose: a plan decides which trials to queue, and what each of them runs.

`Study` and the controller handle every plan alike, so a new kind of study is a subclass of `Plan`: `SearchPlan` queues
trials whose values a sampler chooses, `ConfirmationPlan` the best of them again with fresh seeds, and `ComparisonPlan`
a run for each arm and seed of a comparison.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.sections import Sweep
from nanogpt_kit.sweep.space.parameters import Config
from nanogpt_kit.sweep.study.records import FORMAT, Ending
from nanogpt_kit.sweep.study.runs import TrialRun
from nanogpt_kit.sweep.study.sampler import make_pruner

LOCAL_STORAGES = ("journal", "sqlite")  # files that other machines cannot read


@dataclass(frozen=True)
class QueuedTrial:
    """A trial to be queued."""

    params: dict[str, Any] = field(default_factory=dict)  # as Optuna names them; the sampler chooses what is missing
    attributes: dict[str, Any] = field(default_factory=dict)  # stored, for `config` and `runs` of the plan


class Plan(ABC):
    """Decides which trials a study has, and the runs of each."""

    kind: ClassVar[str]  # stored in the study
    suffix: ClassVar[str] = ""  # of the study's name and lock files, since the plans of a sweep share its folder
    undertaking: ClassVar[str] = "sweep"  # what the user calls the whole, in messages
    stage: ClassVar[str] = ""  # of the undertaking, after its first one
    noun: ClassVar[str] = "trial"  # what the user calls one of its trials
    row_noun: ClassVar[str] = "trial"  # what `row_label` names
    budgeted: ClassVar[str] = "trials"  # what a budget ends, in messages
    option_prefix: ClassVar[str] = "sweep."  # of `options`, in messages
    other_study: ClassVar[str] = "give the experiment another name"  # how the user gets another study, in messages
    run_folders: ClassVar[str] = "trial-*"  # pattern of the names of its runs' folders
    required: ClassVar[str] = "the experiment as written"  # what is said of a trial that `is_required`
    names_unused_folders: ClassVar[bool] = False  # whether its runs never continue what an earlier study left
    ranks_trials: ClassVar[bool] = True  # whether its trials compete, so that one of them is the best so far

    def __init__(self, options: Sweep, nproc: int = 1) -> None:
        """`options` hold for this plan; each run has `nproc` processes."""
        self.options, self.nproc = options, nproc

    @property
    @abstractmethod
    def study_name(self) -> str:
        """In the storage, which may have other studies."""

    @property
    @abstractmethod
    def trial_tokens(self) -> int:
        """Tokens of a trial that is not pruned, at most."""

    @property
    def storage_key(self) -> str:
        return f"{self.option_prefix}storage"

    def facts(self) -> dict[str, Any]:
        """Attributes of the study that are stored when it is created and cannot change later."""
        return {"format": FORMAT, "plan": self.kind}

    def check_facts(self, stored: Mapping[str, Any]) -> None:
        """Raises KitError if the study with these attributes is not the one of this plan."""
        self.check_format(stored.get("format"))
        if stored.get("plan") != self.kind:
            raise KitError(
                f"{self.storage_key} has a study {self.study_name!r} for a {stored.get('plan')}, and this one would be "
                f"for a {self.kind}; {self.other_study}"
            )

    def check_format(self, stored: Any) -> None:
        """Raises KitError if the study's records are of another format."""
        if stored != FORMAT:
            raise KitError(
                f"the study {self.study_name!r} in {self.storage_key} was created by another version of nanogpt-kit; "
                f"{self.other_study}, or set another {self.storage_key}"
            )

    def begin(self, study: optuna.Study) -> None:
        """Called when the study exists, before trials are queued."""
        return

    # Its trials

    @abstractmethod
    def missing_trials(self, queued: Sequence[FrozenTrial]) -> list[QueuedTrial]:
        """The trials to add to a study that has those of `queued`."""

    def indices(self, queued: Sequence[FrozenTrial]) -> Collection[int]:
        """Which of `queued` trials are to be run; by default all."""
        return range(len(queued))

    def sampler(self) -> BaseSampler:
        """Chooses the values that trials are queued without; by default there are none."""
        return optuna.samplers.RandomSampler(seed=0)

    def pruner(self) -> BasePruner:
        """Ends trials early, as the options say."""
        return make_pruner(self.options, self.trial_tokens)

    def config(self, trial: optuna.Trial) -> Config:
        """The values of a trial, chosen now if they have not been yet; by default trials have none."""
        return {}

    @abstractmethod
    def runs(self, trial: optuna.Trial, threads: int | None, folder: Path) -> list[TrialRun]:
        """The runs of a trial, in the sweep's `folder`. Raises KitError if its values are not valid together.

        `threads` is that of the machine slot, which the experiment and the trial's values override.
        """

    @abstractmethod
    def component_sources(self) -> dict[str, bytes]:
        """The code of local components by the path of its copy, relative to `component_copies`."""

    @abstractmethod
    def label(self, trial: optuna.Trial) -> str:
        """The name of a trial in messages."""

    @abstractmethod
    def row_label(self, trial: optuna.Trial) -> str:
        """The name of a trial in a table whose other columns have its seed and values."""

    @property
    def later_runs(self) -> int:
        """The runs that follow when all its trials have ended, at most."""
        return 0

    def runs_of_graph(self, experiment: Experiment, others: Collection[int]) -> int:
        """How many runs the trials `others` have, by their indices, that compile the same graph as `experiment`."""
        return 0

    # What its trials measure

    def result_fields(self, run: TrialRun, cause: Ending, reason: str) -> dict[str, Any]:
        """More fields of the result of a trial, of which `run` is the last run and which ended by `cause`."""
        return {}

    def is_required(self, index: int) -> bool:
        """Whether the study ends if the trial `index` is refused."""
        return index == 0

    def counts_failure(self, index: int) -> bool:
        """Whether the study ends if the trial `index` and some before it fail alike."""
        return True
