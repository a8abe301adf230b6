"""A study as one branch of its space sees it: samplers and pruners then learn from the trials of that branch alone.

Among all trials, those of a better branch would be the best fraction from which tpe learns, and the worse branch would
never be tuned; a pruner would end trials of a branch that learns slowly, however good they are in the end.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Sequence

import optuna
from optuna.pruners import BasePruner, HyperbandPruner
from optuna.trial import FrozenTrial, TrialState

from nanogpt_kit.sweep.study.branches import Branch, branch_index, known_params


class StudyPart(optuna.Study):
    """The trials of a study, or of a part of it, for which `is_part` holds."""

    def __init__(self, whole: optuna.Study, is_part: Callable[[FrozenTrial], bool]) -> None:
        self.__setstate__(whole.__getstate__())  # Optuna's own way would ask the storage for the study again
        self.whole, self.is_part = whole, is_part

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return [trial for trial in self.whole._get_trials(deepcopy, states, use_cache) if self.is_part(trial)]


def branch_part(study: optuna.Study, branches: Sequence[Branch], trial: FrozenTrial) -> StudyPart:
    """The trials of the branch that `trial` is in."""
    index = branch_index(branches, known_params(trial))
    assert index is not None, "each trial is queued with the values of a branch"
    return StudyPart(study, lambda other: branches[index].has(known_params(other)))


class BranchPruner(BasePruner):
    """Compares a trial with those of its branch only."""

    def __init__(self, pruner: BasePruner, branches: Sequence[Branch]) -> None:
        self.pruner, self.branches = pruner, branches

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        return self.pruner.prune(branch_part(study, self.branches, trial), trial)


class BranchHyperband(HyperbandPruner):
    """Hyperband for a part of a study; the trials of one index in every branch are in the same bracket.

    Optuna's own takes the trials of a bracket from the whole study, whatever study it is given, and draws the bracket
    by a trial's index in that.
    """

    def _get_bracket_id(self, study: optuna.Study, trial: FrozenTrial) -> int:
        return self.brackets(study)[trial.number]

    def _create_bracket_study(self, study: optuna.Study, bracket_id: int) -> optuna.Study:
        brackets = self.brackets(study)
        return StudyPart(study, lambda trial: brackets.get(trial.number) == bracket_id)

    def brackets(self, study: optuna.Study) -> dict[int, int]:
        """The bracket of each trial of a study, by trial."""
        found = {}
        for index, trial in enumerate(study.get_trials(deepcopy=False)):
            in_branch = copy.copy(trial)
            in_branch.number = index
            found[trial.number] = super()._get_bracket_id(study, in_branch)
        return found
