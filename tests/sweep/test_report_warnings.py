"""The warnings of a sweep's report: ranges that end too early, lost trials, optimism, unequal branches, early looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

from nanogpt_kit.sweep.report import findings
from nanogpt_kit.sweep.space.parameters import Parameter
from nanogpt_kit.sweep.study.warmup import TrialSteps
from tests.sweep.planted_study import BRANCHES, LR, PLACE, SPACE, one_trial, page_of, rates, shown, sweep_of


def warned(trials: Sequence[FrozenTrial], *rest: Any, space: Sequence[Parameter] = (LR,), **options: Any) -> str:
    summary, study = sweep_of(trials, *rest, space=space, **options)
    return " ".join(findings.warnings_about(summary, findings.parameter_ranges(study)))


@pytest.mark.parametrize(
    ("lr", "side"), [(1.2e-4, "lower"), (1.24e-4, "lower"), (8.2e-3, "upper"), (1.3e-4, ""), (7.8e-3, ""), (1e-3, "")]
)
def test_a_best_within_5_percent_of_an_edge_is_told_in_the_scale_of_its_range(lr: float, side: str) -> None:
    words = warned(rates([3.0, 3.5, 3.6], [lr, 1e-3, 2e-3]))
    assert ("at the lower edge of its range (0.0001)" in words) == (side == "lower")
    assert ("at the upper edge of its range (0.01)" in words) == (side == "upper")
    assert ("widen the range" in words) == bool(side)


def test_an_edge_says_how_many_of_the_best_lie_there_too() -> None:
    lrs = [1e-4, 1.1e-4, 1e-3, 2e-3, 3e-3, 4e-3]
    assert "optimizer.lr = 0.0001" in warned(rates([3.0, 3.1, 3.2, 3.3, 3.4, 3.5], lrs))
    assert "2 of the best 3." in warned(rates([3.0, 3.1, 3.2, 3.3, 3.4, 3.5], lrs))


def test_choices_and_ranges_of_one_value_have_no_edge() -> None:
    space = [
        Parameter("model.norm", (), PLACE, "choice", choices=("a", "b"), name="model.norm"),
        Parameter("model.n_layer", (), PLACE, "int", 4, 4, name="model.n_layer"),
    ]
    config = {"model.norm": "a", "model.n_layer": 4}
    assert "edge" not in warned([one_trial(0, config, 3.0, space=space)], space=space)


def test_many_lost_trials_are_told_with_their_commonest_reasons() -> None:
    lost: dict[str, Any] = {"value": None, "state": TrialState.PRUNED, "cause": "oom"}
    more = [one_trial(at, {"optimizer.lr": 1e-3}, **lost, reason="9 GB were wanted") for at in (8, 9)]
    words = warned([*rates([3.0 + at for at in range(8)]), *more])
    assert "2 of 10 ended trials gave no result: 2 out of memory. Most often: 9 GB were wanted (2x)" in words
    assert "gave no result" not in warned([*rates([3.0 + at for at in range(20)]), more[0]]), (
        "one in 21 is to be expected"
    )


def test_a_single_failure_is_told_since_it_lies_in_no_value() -> None:
    failed = one_trial(30, {"optimizer.lr": 1e-3}, None, TrialState.FAIL, reason="KeyError: 'x'")
    assert "KeyError: 'x'" in warned([*rates([3.0 + at for at in range(30)]), failed])


def test_the_best_of_many_is_doubted_until_it_is_confirmed() -> None:
    trials = rates([3.0 + 0.1 * at for at in range(12)])
    assert "best of 12 trials is optimistic" in warned(trials)
    assert "optimistic" not in warned(trials, {0: [3.1, 3.2], 1: [3.3, 3.4]})


def test_a_pruner_that_pruned_nothing_is_told() -> None:
    trials = rates([3.0 + at for at in range(12)])
    assert "The pruner 'asha' pruned no trial" in warned(trials, pruner="asha")
    pruned = one_trial(12, {"optimizer.lr": 1e-3}, 4.0, TrialState.PRUNED)
    assert "pruned no trial" not in warned([*trials, pruned], pruner="asha")


def optimizer_trials(counts: dict[str, int], lr: float = 1e-3) -> list[FrozenTrial]:
    """Complete trials of each optimizer, at a rate that is in the middle of AdamW's range and no edge of Muon's."""
    names = [name for name, count in counts.items() for _ in range(count)]
    configs = [{"optimizer.use": name, "optimizer.lr": lr if name == "adamw" else 2e-2} for name in names]
    return [one_trial(at, config, 3.0 + 0.1 * at, space=SPACE) for at, config in enumerate(configs)]


@pytest.mark.parametrize(
    ("adamw", "muon", "allocate", "is_told"),
    [(3, 5, "sampler", True), (3, 5, "equal", False), (4, 5, "sampler", False), (45, 50, "sampler", False)],
)
def test_unequal_branches_are_told_with_the_remedy(adamw: int, muon: int, allocate: str, is_told: bool) -> None:
    trials = optimizer_trials({"adamw": adamw, "muon": muon})
    words = warned(trials, space=SPACE, branches=BRANCHES, allocate=allocate)
    counts = f"(optimizer.use = adamw: {adamw}, optimizer.use = muon: {muon})"
    assert (counts in words) == is_told
    assert ('allocate = "equal"' in words) == is_told
    grid = warned(trials, space=SPACE, branches=BRANCHES, allocate=allocate, sampler="grid")
    assert (counts in grid) == is_told
    assert 'allocate = "equal"' not in grid, "a branch of a grid has as many trials as points"


def test_the_best_of_each_branch_is_told_where_it_lies_at_an_edge() -> None:
    trials = [*optimizer_trials({"muon": 1}), *optimizer_trials({"adamw": 1}, lr=9.5e-3)]
    words = warned(trials, space=SPACE, branches=BRANCHES)
    assert "The best trial with optimizer.use = adamw has optimizer.lr = 0.0095, at the upper edge" in words
    assert "The best trial with optimizer.use = muon has" not in words


def test_a_pruner_that_looks_within_the_warmup_is_told_with_the_tokens_that_it_needs() -> None:
    few, _ = sweep_of(rates([3.0, 3.1]), trial_tokens=10_000, pruner="median", min_tokens=1_000)
    summary = replace(few, count=20)
    steps = TrialSteps({}, steps=100, warmup_steps=25, every_steps=10, batch_tokens=100)
    (told,) = findings.warmup_warnings(replace(summary, trial_steps=(steps,)))
    assert told.startswith("The pruner median may end trials")
    assert "first look at step 10 (1,000 tokens), warm-up until step 25" in told
    assert "sweep.min_tokens = 3000" in told
    assert not list(findings.warmup_warnings(replace(few, trial_steps=(steps,)))), "it ends none of the first five"
    late = replace(steps, warmup_steps=5)
    assert not list(findings.warmup_warnings(replace(summary, trial_steps=(late,))))


def test_the_headline_and_the_tables_count_lost_trials_alike(tmp_path: Path) -> None:
    lost = one_trial(2, {"optimizer.lr": 1e-3}, None, TrialState.PRUNED, cause="oom", reason="9 GB were wanted")
    failed = one_trial(3, {"optimizer.lr": 1e-3}, None, TrialState.FAIL, reason="KeyError: 'x'")
    words = shown(page_of(*sweep_of([*rates([3.0, 3.1]), lost, failed]), tmp_path))
    assert "Of 4 trials: 2 complete, 2 without a result." in words


def test_trials_that_took_unequal_tokens_are_not_said_to_take_the_same(tmp_path: Path) -> None:
    trials = [
        one_trial(at, {"optimizer.lr": 1e-3}, 3.0 + at, reports={tokens: 3.0 + at})
        for at, tokens in enumerate((15_360, 30_720))
    ]
    words = shown(page_of(*sweep_of(trials, trial_tokens=15_360), tmp_path))
    assert "the runs of complete trials took 15,360 to 30,720 tokens each" in words
    assert "a complete trial takes" not in words
    alike = shown(page_of(*sweep_of(trials[:1], trial_tokens=15_360), tmp_path))
    assert "a complete trial takes 15,360 tokens" in alike
