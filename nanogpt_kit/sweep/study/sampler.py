"""What a sweep tries next (its sampler), and what it gives up (its pruner)."""

from __future__ import annotations

import importlib.util
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.sections import Sweep
from nanogpt_kit.sweep.space.parameters import Config
from nanogpt_kit.sweep.space.space import Space

INT32 = 2**31 - 1  # a database keeps the steps of reports in 32 bits
ATTEMPTS = 20  # to find a point that was not tried, before one is drawn from what is left


@contextmanager
def settled() -> Iterator[None]:
    """Without Optuna's warnings that a part of it may change: we pin what we use by tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def check_packages(options: Sweep, place: str) -> None:
    """Raises KitError where the sampler wants a package that is not installed."""
    if options.sampler == "cmaes" and importlib.util.find_spec("cmaes") is None:
        message = "cmaes wants the package of that name; install nanogpt-kit[cmaes], or take tpe, random, qmc or grid"
        raise KitError(Fault(message, "sweep.sampler", place))


class ResumableSampler(BaseSampler):
    """Chooses all values of a trial at once, and none that were tried before as long as there are others.

    What it chooses depends on the trial's number and on what earlier trials gave, so that a sweep which was stopped
    goes on as it would have. `study` is the whole study, to be set before the first trial.
    """

    def __init__(self, space: Space, options: Sweep) -> None:
        self.space, self.options = space, options
        self.points = space.points()
        self.study: optuna.Study | None = None
        self.drafts: dict[int, dict[str, Any]] = {}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if trial.number not in self.drafts:
            self.drafts[trial.number] = self.space.params(self.draft(study, trial))
        return self.drafts[trial.number][param_name]

    def draft(self, study: optuna.Study, trial: FrozenTrial) -> Config:
        tried = [self.space.config(other.params) for other in self.others(trial)]
        for attempt in range(ATTEMPTS):
            config = self.propose(study, trial, attempt)
            if config not in tried:
                return config
        points = [(point, self.space.params(point)) for point in self.points or () if point not in tried]
        left = [point for point, params in points if trial.params.items() <= params.items()]
        return self.dice(trial.number).choice(left or [config])

    def others(self, trial: FrozenTrial) -> list[FrozenTrial]:
        assert self.study is not None, "the study is set before its first trial"
        return [other for other in self.study.get_trials(deepcopy=False) if other.number != trial.number]

    def propose(self, study: optuna.Study, trial: FrozenTrial, attempt: int) -> Config:
        """What a kill left the trial with is kept."""
        config: Config = {}
        if self.options.sampler == "qmc" and attempt == 0:
            shares = sobol(len(self.space.parameters), self.options.seed, trial.number)
        else:
            dice = self.dice(trial.number + 1_000_003 * attempt)
            shares = [dice.random() for _ in self.space.parameters]
        learns = self.options.sampler in ("tpe", "cmaes") and attempt < ATTEMPTS // 2  # else it may insist on the best
        relative: dict[str, Any] = {}
        if learns:
            inner = self.inner(trial.number + 1_000_003 * attempt)
            relative = inner.sample_relative(study, trial, inner.infer_relative_search_space(study, trial))
        for one, share in zip(self.space.parameters, shares, strict=True):
            if not one.is_active(config):
                continue
            if one.name in trial.params:
                config[one.key] = one.value(trial.params[one.name])
            elif not learns:
                config[one.key] = one.at(share)
            elif one.name in relative:
                config[one.key] = one.value(relative[one.name])
            else:
                config[one.key] = one.value(inner.sample_independent(study, trial, one.name, one.distribution()))
        return config

    def dice(self, number: int) -> random.Random:
        return random.Random(f"{self.options.seed} {number}")

    def inner(self, number: int) -> BaseSampler:
        """Optuna's sampler, seeded by the trial: with one seed for all a restarted sweep would draw the same again."""
        seed = self.dice(number).getrandbits(31)
        if self.options.sampler == "cmaes":
            return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
        first = max(5, min(10, self.options.trials // 3))  # at random, before there is something to learn from
        with settled():
            return optuna.samplers.TPESampler(seed=seed, n_startup_trials=first, multivariate=True, group=True)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        self.drafts.pop(trial.number, None)


def sobol(dimensions: int, seed: int, number: int) -> list[float]:
    """Point `number` of a scrambled Sobol sequence: evenly spread, whoever asks for which of them."""
    from scipy.stats import qmc

    sequence = qmc.Sobol(dimensions, scramble=True, rng=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that so many points are no power of two
        return [float(share) for share in sequence.random(number + 1)[-1]]


def unit_of(tokens: int) -> int:
    """Tokens that one step of a report stands for: 1, or 1000 where they would not fit."""
    return 1 if tokens <= INT32 else 1000


def first_rung(options: Sweep, tokens: int) -> int:
    """Tokens before which a trial of so many is not pruned."""
    return options.min_tokens or max(1, tokens // options.reduction_factor**2)


def make_pruner(options: Sweep, tokens: int) -> optuna.pruners.BasePruner:
    """For trials of so many tokens."""
    unit = unit_of(tokens)
    first = max(1, first_rung(options, tokens) // unit)
    last = max(first, tokens // unit)
    if options.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=first - 1)
    if options.pruner == "asha":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=options.reduction_factor)
    if options.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(
            min_resource=first, max_resource=last, reduction_factor=options.reduction_factor
        )
    if options.pruner == "patience":
        with settled():
            return optuna.pruners.PatientPruner(None, patience=options.patience)
    return optuna.pruners.NopPruner()
