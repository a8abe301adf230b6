"""Whether a pruner first looks at trials while their learning rate still rises.

A trial that is ended then is judged by its start: what begins slowly, such as another optimizer or a longer warm-up, is
pruned before its learning rate has reached the peak. All of it follows from the experiment; nothing has to be run.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nanogpt_kit.core.kinds import Schedule
from nanogpt_kit.core.sections import Sweep
from nanogpt_kit.sweep.study.sampler import MEDIAN_STARTUP_TRIALS, first_rung_tokens

GRID = 2048  # steps at which a schedule is first evaluated
NEARLY = 1 - 1e-9  # of the peak: it may be reached only up to rounding
MAX_SHOWN = 3  # looks in one warning


@dataclass(frozen=True)
class TrialSteps:
    """When trials with some values are evaluated, and how long their learning rate rises."""

    values: Mapping[str, str]  # that decide it, by dotted key, as text; empty: those of the experiment as written
    steps: int
    warmup_steps: int  # steps before the one with the largest learning rate
    every_steps: int  # between evaluations
    batch_tokens: int  # of a step, where all have equally many
    evaluated_tokens: tuple[int, ...] = ()  # until each evaluation, where steps have different numbers of tokens

    def tokens_at(self, evaluation: int) -> int:
        """The tokens until evaluation `evaluation`, counted from 1."""
        if self.evaluated_tokens:
            return self.evaluated_tokens[min(evaluation, len(self.evaluated_tokens)) - 1]
        return evaluation * self.every_steps * self.batch_tokens


@dataclass(frozen=True)
class EarlyLook:
    """A pruner's first look within the warm-up."""

    trial: TrialSteps
    step: int  # of the look

    @property
    def min_tokens(self) -> int | None:
        """The value of sweep.min_tokens with which the first look is after the warm-up; None if no look is."""
        after = self.trial.warmup_steps // self.trial.every_steps + 1
        return self.trial.tokens_at(after) if after * self.trial.every_steps < self.trial.steps else None

    def __str__(self) -> str:
        values = ", ".join(f"{key} = {value}" for key, value in self.trial.values.items())
        tokens = self.trial.tokens_at(self.step // self.trial.every_steps)
        text = f"first look at step {self.step:,} ({tokens:,} tokens), warm-up until step {self.trial.warmup_steps:,}"
        return f"{values}: {text}" if values else text


def most_compared(options: Sweep, count: int, branches: int) -> int:
    """How many of a sweep's `count` trials a pruner compares with each other at most; the space has `branches`."""
    return min(count, options.trials // max(1, branches)) if options.allocate == "equal" else count


def warmup_warning(options: Sweep, trial_tokens: int, trials: Sequence[TrialSteps], compared: int) -> str:
    """A sentence about the looks within the warm-up, and the remedy; empty if there is none.

    `trial_tokens` are those of a trial that is not pruned, and `compared` is from `most_compared`.
    """
    early = early_looks(options, trial_tokens, trials, compared)
    if not early:
        return ""
    written = "as written: " if len(trials) > 1 else ""  # otherwise all trials have these steps
    shown = "; ".join(str(look) if look.trial.values else f"{written}{look}" for look in early[:MAX_SHOWN])
    more = f"; and {len(early) - MAX_SHOWN} more" if len(early) > MAX_SHOWN else ""
    remedies = [look.min_tokens for look in early]
    needed = [tokens for tokens in remedies if tokens is not None]
    set_tokens = f"set sweep.min_tokens = {max(needed)}" if len(needed) == len(remedies) else ""
    remedy = set_tokens or "no evaluation lies between warm-up and end: lower evaluate.every_steps or the warm-up"
    of_branch = " of their branch" if options.allocate == "equal" else ""
    start_up = f", once {MEDIAN_STARTUP_TRIALS}{of_branch} are complete," if options.pruner == "median" else ""
    return (
        f"{options.pruner} may end trials{start_up} before their learning rate has reached its peak, and so prune what "
        f"starts slowly: {shown}{more}; {remedy}, or pruner = none"
    )


def idle_pruner_reason(options: Sweep, trial_tokens: int, trials: Sequence[TrialSteps], compared: int) -> str:
    """Why the pruner never ends a trial, and the remedy; empty if it may end one."""
    if options.pruner == "none" or any(first_look(options, trial_tokens, trial, compared) for trial in trials):
        return ""
    if all(trial.every_steps >= trial.steps for trial in trials):
        return f"{options.metric} is first measured at the end; lower evaluate.every_steps"
    if options.pruner == "median" and compared <= MEDIAN_STARTUP_TRIALS:
        first = f"the first {MEDIAN_STARTUP_TRIALS} trials" + (" of each branch" if options.allocate == "equal" else "")
        return f"median lets {first} finish, and no more run; raise sweep.trials"
    key, lower = f"{first_rung_tokens(options, trial_tokens):,} tokens", "sweep.min_tokens"
    if options.pruner == "patience":
        key, lower = f"{options.patience + 2} evaluations and {key}", "sweep.patience, sweep.min_tokens"
    return f"no evaluation lies between {key} and the end of a trial; lower {lower} or evaluate.every_steps"


def early_looks(options: Sweep, trial_tokens: int, trials: Sequence[TrialSteps], compared: int) -> list[EarlyLook]:
    """The first looks within the warm-up, the longest warm-up first."""
    looks = [(trial, first_look(options, trial_tokens, trial, compared)) for trial in trials]
    early = [EarlyLook(trial, step) for trial, step in looks if step is not None and step <= trial.warmup_steps]
    return sorted(early, key=lambda look: -look.trial.warmup_steps * look.trial.batch_tokens)


def first_look(options: Sweep, trial_tokens: int, trial: TrialSteps, compared: int) -> int | None:
    """The step of the first evaluation at which the pruner may end a trial; None if it never may."""
    if options.pruner == "none" or (options.pruner == "median" and compared <= MEDIAN_STARTUP_TRIALS):
        return None
    needed = first_rung_tokens(options, trial_tokens)
    evaluations = math.ceil(needed / (trial.every_steps * trial.batch_tokens))
    if trial.evaluated_tokens:
        evaluations = 1 + bisect_left(trial.evaluated_tokens, needed)
    if options.pruner == "patience":  # Optuna compares the newest patience + 1 values with those before
        evaluations = max(evaluations, options.patience + 2)
    step = max(1, evaluations) * trial.every_steps
    return step if step < trial.steps else None  # what has been trained to its end is not pruned


def warmup_length(schedule: Schedule, total_steps: int) -> int:
    """The steps before the first one with the largest multiplier.

    Of long runs the multiplier is evaluated at some steps, and then at every step around the peak.
    """
    low, high = 0, max(0, total_steps - 1)
    while True:
        stride = max(1, math.ceil((high - low) / GRID))
        steps = [*range(low, high, stride), high]
        multipliers = [schedule.multiplier(step, total_steps) for step in steps]
        peak = max(multipliers)
        at = next(index for index, value in enumerate(multipliers) if value >= peak * NEARLY)
        if stride == 1:
            return steps[at] if peak > 0 else 0
        low, high = steps[max(0, at - 1)], steps[min(len(steps) - 1, at + 1)]
