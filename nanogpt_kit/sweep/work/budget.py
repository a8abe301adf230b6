"""The budgets of a sweep, sweep.max_tokens and sweep.max_seconds: of the search and its confirmation together.

The search ends early enough that the confirmation fits. Its tokens are known exactly; its seconds are those of the
complete trials, with a margin.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.sweep.space.space import Space
from nanogpt_kit.sweep.study.confirmation import choose_trials, rank_trials, runs_left
from nanogpt_kit.sweep.study.plan import Plan
from nanogpt_kit.sweep.study.records import TrialResult
from nanogpt_kit.sweep.study.search import SearchPlan
from nanogpt_kit.sweep.study.study import Study
from nanogpt_kit.sweep.work.trial import TrialProcess

logger = logging.getLogger(__name__)

SECONDS_MARGIN = 1.1  # of the confirmation: its runs do not take exactly as long as those of the search
MIN_TRIALS = 2  # that a verdict compares: trial 0 and another one
KEYS = ("max_tokens", "max_seconds")

Trials = Callable[[], Sequence[FrozenTrial]]


@dataclass(frozen=True)
class Cost:
    """Of training, over all controllers."""

    tokens: float = 0.0
    seconds: float = 0.0  # in steps

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.tokens + other.tokens, self.seconds + other.seconds)

    def times(self, count: int, margin: float = 1.0) -> Cost:
        """Of `count` such runs, with a margin for the seconds."""
        return Cost(self.tokens * count, self.seconds * count * margin)

    def of(self, key: str) -> float:
        """What a budget limits, by its key."""
        return self.tokens if key == "max_tokens" else self.seconds


class Budget:
    """Whether another trial of a study may begin. The results of `other_trials` count, too."""

    def __init__(self, study: Study[Plan], other_trials: Trials = tuple) -> None:
        self.study, self.other_trials = study, other_trials
        self.missing: list[str] = []  # keys of the budgets that did not allow the newest trial

    def allows_trial(self, running: Sequence[TrialProcess]) -> bool:
        """`running` are the trials of this controller; no trial begins once a budget is used up."""
        limits = self.limits()
        used = self.used() + spent_by(running) if limits else Cost()
        self.missing = [key for key, limit in limits.items() if used.of(key) >= limit]
        return not self.missing

    def limits(self) -> dict[str, float]:
        """By the keys of the budgets that are set."""
        return {key: limit for key in KEYS if (limit := getattr(self.study.options, key)) is not None}

    def used(self) -> Cost:
        """By the trials that have ended."""
        results = [TrialResult.of(trial) for trial in (*self.study.trials(), *self.other_trials())]
        found = [result for result in results if result is not None]
        return Cost(sum(result.tokens for result in found), sum(result.seconds for result in found))

    def end_text(self) -> str:
        """What is missing, and how to continue, when no further trial begins."""
        trials = self.study.trials_to_run()
        ended = f"{sum(trial.state.is_finished() for trial in trials)} of {len(trials)} {self.study.plan.budgeted}"
        keys = " and ".join(f"sweep.{key}" for key in self.missing)
        return f"{self.reason()}: {ended} have ended; raise {keys}, and the same command continues"

    def reason(self) -> str:
        return f"the budget {self.limits_text(self.missing)} is used up"

    def limits_text(self, keys: Sequence[str]) -> str:
        """Such as "sweep.max_tokens = 900"."""
        limits = self.limits()
        return " and ".join(f"sweep.{key} = {limits[key]:g}" for key in keys)


class SearchBudget(Budget):
    """Of a search, which keeps room for its confirmation."""

    study: Study[SearchPlan]

    def __init__(self, study: Study[SearchPlan], confirmation_trials: Trials) -> None:
        super().__init__(study, confirmation_trials)
        self.run_tokens = known_run_tokens(study.plan.space)
        self.is_too_small = False  # for any confirmation

    def allows_trial(self, running: Sequence[TrialProcess]) -> bool:
        if not super().allows_trial(running):
            return False
        limits = self.limits()
        if not limits or not self.study.options.confirm or self.study.count < MIN_TRIALS:
            return True
        complete, begun = self.study.trials(TrialState.COMPLETE), len(self.study.trials(TrialState.RUNNING))
        cost = self.cost_with_another(running, complete, begun)
        self.missing = [key for key, limit in limits.items() if cost.of(key) > limit]
        if not self.missing:
            return True
        least = self.least_cost(complete)
        too_small = [key for key in self.missing if least.of(key) > limits[key]]
        if too_small:  # the search may use what no confirmation can
            self.warn_too_small(too_small, self.least_cost(complete, SECONDS_MARGIN))
        return bool(too_small) or len(complete) + begun < MIN_TRIALS

    def cost_with_another(self, running: Sequence[TrialProcess], complete: Sequence[FrozenTrial], begun: int) -> Cost:
        """Of the whole sweep, if one more trial begins and all that have begun are complete in the end."""
        options, run = self.study.options, self.run_cost(complete)
        left = runs_left(options, len(self.study.plan.branches), len(complete) + begun + 1, self.other_trials())
        trials = run.times((begun + 1) * options.seeds)
        slower = sum(max(0.0, spent_by([process]).seconds - options.seeds * run.seconds) for process in running)
        return self.used() + trials + Cost(seconds=slower) + self.fresh_run_cost(complete).times(left, SECONDS_MARGIN)

    def fresh_run_cost(self, complete: Sequence[FrozenTrial]) -> Cost:
        """Of a run with a fresh seed: as `run_cost`, but no fewer seconds than the trials to confirm now had."""
        options, run = self.study.options, self.run_cost(complete)
        ranked = [(trial.number, trial.params) for trial in rank_trials(complete, options.direction)]
        chosen = choose_trials(ranked, options.confirm, self.study.plan.branches)
        if not chosen:
            return run
        of_chosen = self.run_cost([trial for trial in complete if trial.number in chosen])
        return Cost(run.tokens, max(run.seconds, of_chosen.seconds))

    def run_cost(self, complete: Sequence[FrozenTrial]) -> Cost:
        """Of a run that is not pruned: its tokens at most, and its seconds on average; each 0 until it is known."""
        seeds = self.study.options.seeds
        results = [result for trial in complete if (result := TrialResult.of(trial)) is not None]
        tokens = max([self.run_tokens, *(result.tokens / seeds for result in results)])
        seconds = sum(result.seconds for result in results) / (seeds * len(results)) if results else 0.0
        return Cost(tokens, seconds)

    def least_cost(self, complete: Sequence[FrozenTrial], margin: float = 1.0) -> Cost:
        """Of a sweep with no more trials than a verdict compares."""
        options, run = self.study.options, self.run_cost(complete)
        return run.times(MIN_TRIALS * options.seeds) + run.times(MIN_TRIALS * options.confirm_seeds, margin)

    def warn_too_small(self, keys: Sequence[str], needed: Cost) -> None:
        """Once, when it is known."""
        if self.is_too_small:
            return
        self.is_too_small = True
        amounts = {"max_tokens": f"{needed.tokens:,.0f}", "max_seconds": f"about {needed.seconds:,.0f}"}
        logger.warning(
            "%s is too small for a confirmation: two trials with their fresh seeds need %s; the search continues, and "
            "the same command with a larger budget confirms its trials",
            self.limits_text(keys),
            " and ".join(f"sweep.{key} = {amounts[key]}" for key in keys),
        )

    def reason(self) -> str:
        used = self.used()
        if all(used.of(key) >= self.limits()[key] for key in self.missing):
            return super().reason()
        return f"the rest of {self.limits_text(self.missing)} is left for the confirmation"


def spent_by(processes: Sequence[TrialProcess]) -> Cost:
    """By trials that have not ended."""
    runs = [run for process in processes for run in process.runs]
    return Cost(sum(run.tokens for run in runs), sum(run.seconds for run in runs))


def known_run_tokens(space: Space) -> int:
    """The tokens of a run that is not pruned, at most; 0 where train.max_seconds may end it at any of them."""
    return space.trial_tokens if space.base.train.max_seconds is None else 0


def check_token_budget(space: Space) -> None:
    """Raises KitError if sweep.max_tokens has no room for the smallest search and confirmation that give a verdict."""
    options, points = space.options, space.points()
    count = options.trials if points is None else min(options.trials, len(points))
    if options.max_tokens is None or not options.confirm or count < MIN_TRIALS:
        return
    runs = MIN_TRIALS * (options.seeds + options.confirm_seeds)
    needed = runs * known_run_tokens(space)
    if needed > options.max_tokens:
        seeds = f"{options.seeds} seeds each and " if options.seeds > 1 else ""
        message = (
            f"{options.max_tokens:,} tokens have no room for a confirmation: two trials with {seeds}"
            f"{options.confirm_seeds} fresh seeds each are {runs} runs of {space.trial_tokens:,} tokens; set at least "
            f"{needed:,}, or sweep.confirm = 0"
        )
        raise KitError(Fault(message, "sweep.max_tokens", space.base.location(("sweep", "max_tokens"))))
