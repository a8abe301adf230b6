"""The summary of a sweep with planted values, by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nanogpt_kit.core.sections import Sweep
from nanogpt_kit.sweep.study.branches import Branch
from nanogpt_kit.sweep.study.confirmation import ConfirmedTrial, direction_sign
from nanogpt_kit.sweep.study.confirmation_state import ConfirmationState
from nanogpt_kit.sweep.study.records import SeedsLook
from nanogpt_kit.sweep.study.summary import SweepSummary, TrialSummary

USE = "optimizer.use"
BRANCHES = Branch({USE: "adamw"}), Branch({USE: "muon"})
FIRST_FRESH = 2000  # seed
Fresh = Mapping[int, Sequence[float | None]]


def planted_sweep(
    values: Sequence[float | None],
    fresh: Fresh | None = None,
    *,
    uses: str = "",
    looks: Sequence[SeedsLook] = (),
    is_running: bool = False,
    not_comparable: Mapping[int, str] | None = None,
    **options: Any,
) -> SweepSummary:
    """Trials with the `values` of a search, and those that ended with `fresh` seeds; None is a failure.

    `uses` has the branch of each trial, "a" or "m"; without it there are none.
    """
    confirm_seeds = options.setdefault("confirm_seeds", 3)
    chosen = Sweep(space={USE: None}, **{"confirm": 3 if fresh else 0, **options})
    trials = tuple(planted_trial(index, value, uses) for index, value in enumerate(values))
    branches = BRANCHES if uses else ()
    if fresh is None:
        return SweepSummary("planted", chosen, len(values), trials, branches=branches)
    found = [planted_confirmation(index, ended) for index, ended in fresh.items()]
    sign = direction_sign(chosen.direction)
    confirmed = sorted((one for one in found if one.by_seed), key=lambda one: (len(one.failed), sign * one.mean))
    state = ConfirmationState(
        trials=tuple(fresh),
        seeds=tuple(range(FIRST_FRESH, FIRST_FRESH + confirm_seeds)),
        runs=len(fresh) * confirm_seeds,
        ended=sum(map(len, fresh.values())),
        is_running=is_running,
        looks=tuple(looks),
    )
    return SweepSummary(
        "planted",
        chosen,
        len(values),
        trials,
        tuple(confirmed),
        {index: len(ended) for index, ended in fresh.items()},
        branches=branches,
        confirmation=state,
        not_comparable=not_comparable or {},
    )


def planted_trial(index: int, value: float | None, uses: str) -> TrialSummary:
    params = {USE: {"a": "adamw", "m": "muon"}[uses[index]]} if uses else {}
    config = {**params, "optimizer.lr": 0.001 * (index + 1)}
    if value is None:
        return TrialSummary(index, "pruned", config, params, cause="oom")
    return TrialSummary(index, "complete", config, params, value, "complete")


def planted_confirmation(index: int, ended: Sequence[float | None]) -> ConfirmedTrial:
    by_seed = dict(enumerate(ended, FIRST_FRESH))
    failed = tuple(seed for seed, value in by_seed.items() if value is None)
    return ConfirmedTrial(index, {seed: value for seed, value in by_seed.items() if value is not None}, failed)
