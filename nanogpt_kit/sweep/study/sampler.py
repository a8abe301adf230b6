"""The sampler of a sweep, which chooses the next values, and its pruner, which ends trials early."""

from __future__ import annotations

import importlib.util
import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, HyperbandPruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.sections import Sweep
from nanogpt_kit.sweep.space.parameters import Config
from nanogpt_kit.sweep.space.space import Space
from nanogpt_kit.sweep.study.allocation import allocate_trials
from nanogpt_kit.sweep.study.branch_study import BranchHyperband, BranchPruner, branch_part
from nanogpt_kit.sweep.study.branches import Branch, branch_index, known_params

MEDIAN_STARTUP_TRIALS = 5  # that the pruner median does not end
MAX_REPORT_STEP = 2**31 - 1  # a database stores the steps of reports in 32 bits
ATTEMPTS = 20  # to propose a new point, before one is drawn from those that are left
ATTEMPT_STRIDE = 1_000_003  # a prime above all trial indices: the attempts of two trials draw different numbers


def check_sampler_package(options: Sweep, location: str) -> None:
    """Raises KitError if the sampler needs a package that is not installed."""
    if options.sampler == "cmaes" and importlib.util.find_spec("cmaes") is None:
        message = "cmaes requires the package cmaes; install nanogpt-kit[cmaes], or use tpe, random, qmc or grid"
        raise KitError(Fault(message, "sweep.sampler", location))


@dataclass(frozen=True)
class Scope:
    """What the values of a trial are chosen by: all trials or, with allocate = "equal", those of its branch."""

    study: optuna.Study  # with these trials alone
    index: int  # of the trial among them
    trials: int  # how many there will be
    points: Sequence[Config] | None  # that they may have; None if these cannot be listed


class ResumableSampler(BaseSampler):
    """Chooses all values of a trial together, and no point twice while others are left.

    The choice depends on the trial's index and on the results of earlier trials, so that a sweep which was stopped
    continues as if it had not been. `study` is the whole study; set it before the first trial.
    """

    def __init__(self, space: Space, options: Sweep) -> None:
        self.space, self.options = space, options
        self.points = space.points()
        self.allocations = allocate_trials(space) if options.allocate == "equal" else []
        self.branches = [one.branch for one in self.allocations]
        self.study: optuna.Study | None = None
        self.chosen: dict[int, dict[str, Any]] = {}  # by trial, as Optuna stores them

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if trial.number not in self.chosen:
            self.chosen[trial.number] = self.space.to_optuna(self.choose(study, trial))
        return self.chosen[trial.number][param_name]

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        self.chosen.pop(trial.number, None)

    def choose(self, study: optuna.Study, trial: FrozenTrial) -> Config:
        """A point that no other trial has; one of theirs if there are no others."""
        tried = [self.space.from_optuna(other.params) for other in self.other_trials(trial)]
        scope = self.scope(study, trial)
        for attempt in range(ATTEMPTS):
            config = self.propose(scope, trial, attempt)
            if config not in tried:
                return config
        points = [(point, self.space.to_optuna(point)) for point in scope.points or () if point not in tried]
        known = known_params(trial)
        left = [point for point, params in points if known.items() <= params.items()]
        return self.rng(trial.number).choice(left or [config])

    def other_trials(self, trial: FrozenTrial) -> list[FrozenTrial]:
        assert self.study is not None, "the study is set before its first trial"
        return [other for other in self.study.get_trials(deepcopy=False) if other.number != trial.number]

    def scope(self, study: optuna.Study, trial: FrozenTrial) -> Scope:
        if not self.branches:
            return Scope(study, trial.number, self.options.trials, self.points)
        assert self.study is not None, "the study is set before its first trial"
        part, index = branch_part(self.study, self.branches, trial), branch_index(self.branches, known_params(trial))
        assert index is not None, "each trial is queued with the values of a branch"
        earlier = [other for other in part.get_trials(deepcopy=False) if other.number < trial.number]
        allocation = self.allocations[index]
        return Scope(part, len(earlier), allocation.trials, allocation.points)

    def propose(self, scope: Scope, trial: FrozenTrial, attempt: int) -> Config:
        """A point that keeps the values which the trial has already, from before a kill or from the queue."""
        config: Config = {}
        draw = trial.number + ATTEMPT_STRIDE * attempt
        if self.options.sampler == "qmc" and attempt == 0:
            fractions = sobol_point(len(self.space.parameters), self.options.seed, scope.index)
        else:
            rng = self.rng(draw)
            fractions = [rng.random() for _ in self.space.parameters]
        learns = self.options.sampler in ("tpe", "cmaes") and attempt < ATTEMPTS // 2  # else it may insist on the best
        relative: dict[str, Any] = {}
        if learns:
            sampler = self.learning_sampler(draw, scope.trials)
            search_space = sampler.infer_relative_search_space(scope.study, trial)
            relative = sampler.sample_relative(scope.study, trial, search_space)
        known = known_params(trial)
        for parameter, fraction in zip(self.space.parameters, fractions, strict=True):
            if not parameter.is_active(config):
                continue
            if parameter.name in known:
                value = parameter.from_optuna(known[parameter.name])
            elif not learns:
                value = parameter.at_fraction(fraction)
            elif parameter.name in relative:
                value = parameter.from_optuna(relative[parameter.name])
            else:
                stored = sampler.sample_independent(scope.study, trial, parameter.name, parameter.distribution())
                value = parameter.from_optuna(stored)
            config[parameter.key] = value
        return config

    def rng(self, draw: int) -> random.Random:
        return random.Random(f"{self.options.seed} {draw}")

    def learning_sampler(self, draw: int, trials: int) -> BaseSampler:
        """Optuna's sampler for `trials` in all, seeded by the trial.

        With one seed for all, a restarted sweep would draw the same again.
        """
        seed = self.rng(draw).getrandbits(31)
        if self.options.sampler == "cmaes":
            return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
        random_trials = max(5, min(10, trials // 3))  # before the sampler has trials to learn from
        with without_experimental_warnings():
            return optuna.samplers.TPESampler(seed=seed, n_startup_trials=random_trials, multivariate=True, group=True)


def sobol_point(dimensions: int, seed: int, index: int) -> list[float]:
    """Point `index` of a scrambled Sobol sequence: evenly spread, in whichever order points are requested."""
    from scipy.stats import qmc

    sequence = qmc.Sobol(dimensions, scramble=True, rng=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the number of points is not a power of two
        return [float(fraction) for fraction in sequence.random(index + 1)[-1]]


def report_unit(tokens: int) -> int:
    """Tokens for each step of Optuna's reports, in a trial of `tokens`: 1, or 1000 if they would not fit."""
    return 1 if tokens <= MAX_REPORT_STEP else 1000


def first_rung_tokens(options: Sweep, tokens: int) -> int:
    """Tokens before which a trial of `tokens` is not pruned."""
    return options.min_tokens or max(1, tokens // options.reduction_factor**2)


def make_pruner(options: Sweep, tokens: int, branches: Sequence[Branch] = ()) -> BasePruner:
    """The pruner for trials of `tokens`. With `branches`, a trial is compared with those of its branch only."""
    if branches:
        return BranchPruner(choose_pruner(options, tokens, BranchHyperband), branches)
    return choose_pruner(options, tokens, HyperbandPruner)


def choose_pruner(options: Sweep, tokens: int, hyperband: type[HyperbandPruner]) -> BasePruner:
    unit = report_unit(tokens)
    first = max(1, first_rung_tokens(options, tokens) // unit)
    last = max(first, tokens // unit)
    if options.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=MEDIAN_STARTUP_TRIALS, n_warmup_steps=first - 1)
    if options.pruner == "asha":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=options.reduction_factor)
    if options.pruner == "hyperband":
        return hyperband(min_resource=first, max_resource=last, reduction_factor=options.reduction_factor)
    if options.pruner == "patience":
        with without_experimental_warnings():
            return optuna.pruners.PatientPruner(None, patience=options.patience)
    return optuna.pruners.NopPruner()


@contextmanager
def without_experimental_warnings() -> Iterator[None]:
    """Suppresses Optuna's warnings that these parts may change; tests check the behaviour that is used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
