"""Which parameters matter: measured where trials are enough, and what the page says where they are not."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import optuna
import pytest

from nanogpt_kit.sweep.report.importances import FEW_TRIALS, measure_importances, missing_for_importances
from nanogpt_kit.sweep.space.parameters import Parameter
from tests.sweep.planted_study import (
    BRANCHES,
    LR,
    LR_MUON,
    PLACE,
    SPACE,
    figures_of,
    one_trial,
    page_of,
    rates,
    realistic,
    shown,
    sweep_of,
)

SECTION = "Which parameters matter"


def test_importances_find_what_makes_the_best_whether_less_or_more_is_better() -> None:
    dice = random.Random(1)
    space = [LR, Parameter("train.grad_clip", (), PLACE, "float", 0.0, 1.0, name="train.grad_clip")]
    shares = [(dice.random(), dice.random()) for _ in range(60)]
    cost = [rate if rate < 0.3 else 1 + clip for rate, clip in shares]  # the rate makes the best, the other the worst
    configs = [{one.key: one.at_fraction(share) for one, share in zip(space, both, strict=True)} for both in shares]
    for sign, direction in ((1, "minimize"), (-1, "maximize")):
        trials = [one_trial(at, configs[at], sign * cost[at], space=space) for at in range(60)]
        (found,) = measure_importances(sweep_of(trials, space=space, direction=direction)[1])
        assert found.values["optimizer.lr"] > 0.7


def test_importances_are_measured_in_each_branch_too() -> None:
    summary, study = realistic(60)
    found = measure_importances(study, summary.branches)
    assert [one.title for one in found] == ["all trials", "optimizer.use = adamw", "optimizer.use = muon"]
    assert LR_MUON not in found[1].values
    assert set(found[2].values) == {LR_MUON, "model.n_layer", "model.norm"}


def test_importances_that_fail_say_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(*given: Any, **named: Any) -> None:
        raise RuntimeError("it did not converge")

    monkeypatch.setattr(optuna.importance, "get_param_importances", fails)
    assert "Not known: it did not converge." in shown(page_of(*realistic(), tmp_path))


def test_with_one_parameter_there_is_nothing_to_rank(tmp_path: Path) -> None:
    page = page_of(*sweep_of(rates([3.0 + 0.1 * at for at in range(12)])), tmp_path)
    assert SECTION not in figures_of(page)
    assert "Only optimizer.lr varies among the complete trials" in shown(page)


def few_of_muon(muon: int) -> tuple[Any, Any]:
    """Ten trials or more with AdamW, and some with Muon."""
    names = ["adamw"] * (FEW_TRIALS + 2) + ["muon"] * muon
    configs = [
        {"optimizer.use": name, "optimizer.lr": 3e-3 + 1e-4 * at, "model.n_layer": 2 + at % 5}
        for at, name in enumerate(names)
    ]
    trials = [one_trial(at, config, 3.0 - 0.01 * at, space=SPACE) for at, config in enumerate(configs)]
    return sweep_of(trials, space=SPACE, branches=BRANCHES)


def test_each_branch_needs_ten_complete_trials(tmp_path: Path) -> None:
    page = page_of(*few_of_muon(9), tmp_path)
    assert SECTION not in figures_of(page)
    words = shown(page)
    assert "at least 10 complete trials in each branch. optimizer.use = muon has 9, so 1 more is needed." in words
    assert "The best complete trial with optimizer.use = adamw is trial 11: val/loss 2.89." in words
    assert "The best complete trial with optimizer.use = muon is trial 20: val/loss 2.8." in words
    assert not list(missing_for_importances(few_of_muon(10)[0]))


def test_without_branches_ten_complete_trials_are_needed() -> None:
    space = [LR, Parameter("model.n_layer", (), PLACE, "int", 2, 12, name="model.n_layer")]
    configs = [{"optimizer.lr": 1e-3 + 1e-4 * at, "model.n_layer": 2 + at} for at in range(10)]
    trials = [one_trial(at, config, 3.0 + at, space=space) for at, config in enumerate(configs)]
    assert not list(missing_for_importances(sweep_of(trials, space=space)[0]))
    (need, has) = missing_for_importances(sweep_of(trials[:7], space=space)[0])
    assert need == "Importances need at least 10 complete trials."
    assert has == "There are 7, so 3 more are needed."
