"""Steps, tokens and seconds to a target: the first evaluation at which the mean over all seeds reaches it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Evaluation(NamedTuple):
    """A full evaluation of a run. `tokens` and `seconds` are spent in its steps until then."""

    step: int
    tokens: int
    seconds: float
    value: float


class ReachedTarget(NamedTuple):
    """The step at which all seeds of an arm stop; `tokens` and `seconds` of a run, on average over the seeds."""

    step: int
    tokens: float
    seconds: float
    value: float  # mean over the seeds


def reach_target(runs: Mapping[int, Sequence[Evaluation]], target: float, direction: str) -> ReachedTarget | None:
    """The first step at which the mean of `runs`, {seed: evaluations}, is at least as good as `target`; None if never.

    All seeds stop at one step, since a separate step for each would choose the lucky moments of each run. So only steps
    count at which every seed was evaluated; of several evaluations at one step the last counts.
    """
    by_step = [{evaluation.step: evaluation for evaluation in evaluations} for evaluations in runs.values()]
    if not by_step:
        return None
    for step in sorted(set.intersection(*(set(run) for run in by_step))):
        found = [run[step] for run in by_step]
        value = math.fsum(one.value for one in found) / len(found)
        if value <= target if direction == "minimize" else value >= target:
            tokens = sum(one.tokens for one in found) / len(found)
            seconds = sum(one.seconds for one in found) / len(found)
            return ReachedTarget(step, tokens, seconds, value)
    return None
