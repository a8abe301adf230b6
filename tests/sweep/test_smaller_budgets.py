"""Tokens saved: at which budgets the better arm is trained, and which one it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.comparison.comparison import make_comparison
from nanogpt_kit.comparison.question import Question
from nanogpt_kit.comparison.record import Comparison
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.sweep import smaller_budgets
from nanogpt_kit.sweep.smaller_budgets import budget_questions, check_budgets, measure_tokens_saved
from tests.comparison.made_arms import make_question, measure_arms

BASE = {3: 4.5, 5: 4.75, 7: 4.25, 9: 4.625}
BETTER = {seed: value - 0.25 + seed / 1000 for seed, value in BASE.items()}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Question, tuple[int, ...], dict[str, Any]]]:
    """In place of training: each halving of the 20 steps costs 0.5. The questions that were asked."""
    asked = []

    def run_comparison(question: Question, seeds: tuple[int, ...], **options: Any) -> Comparison:
        asked.append((question, tuple(seeds), options))
        steps = question.base.experiment.total_steps
        values = {seed: BETTER[seed] + {10: 0.5, 15: 0.2}[steps] for seed in seeds}
        return make_comparison(question, measure_arms(question, [values]), "")

    monkeypatch.setattr(smaller_budgets, "run_comparison", run_comparison)
    return asked


def compared(question: Question, *values: dict[int, float]) -> Comparison:
    return make_comparison(question, measure_arms(question, list(values)), "")


@pytest.mark.parametrize("is_contender", [True, False])
def test_the_better_arm_is_trained_at_half_and_three_quarters_of_its_steps(
    tiny: Path, trained: list[tuple[Question, tuple[int, ...], dict[str, Any]]], is_contender: bool
) -> None:
    question = make_question(tiny, "model.mlp=swiglu", text="why")
    comparison = compared(question, *((BASE, BETTER) if is_contender else (BETTER, BASE)))
    found = measure_tokens_saved(question, comparison, again=True)
    better = question.arms[int(is_contender)]
    assert (found.arm, found.label) == (int(is_contender), better.label)
    assert [one.base.label for one, _, _ in trained] == [f"{better.label} train.steps={steps}" for steps in (10, 15)]
    assert [one.base.experiment.total_steps for one, _, _ in trained] == [10, 15]
    assert all((one.kind, one.text) == ("noise", f"tokens saved by {better.label}: why") for one, _, _ in trained)
    assert all((seeds, options) == (tuple(BASE), {"again": True}) for _, seeds, options in trained)
    assert sorted(found.values) == [800, 1200, 1600]
    assert found.saved.fraction is not None
    assert found.saved.fraction == pytest.approx(1 - 2 ** (-0.244 / 0.5), abs=0.02)
    assert found.lines()[0].startswith(f"tokens saved by {better.label}: ")
    assert len(found.record()["values"]) == 12


def test_a_higher_metric_is_better_where_it_is_maximized(tiny: Path, trained: list[Any]) -> None:
    question = make_question(tiny, "model.mlp=swiglu", direction="maximize")
    assert measure_tokens_saved(question, compared(question, BASE, BETTER)).arm == 0


@pytest.mark.parametrize("values", [(BASE, BASE), ({3: 4.5}, {3: 4.25})])
def test_arms_without_a_difference_that_has_an_interval_are_not_trained_further(
    tiny: Path, trained: list[Any], values: tuple[dict[int, float], ...]
) -> None:
    question = make_question(tiny, "model.mlp=swiglu")
    found = measure_tokens_saved(question, compared(question, *values))
    assert found.lines() == ["tokens saved: unknown: there is no difference with an interval"]
    assert trained == []


def test_runs_of_one_step_have_no_smaller_budget_and_seconds_are_none(tiny: Path) -> None:
    short = make_question(tiny, "train.steps=1").arms[1]
    question = make_question(tiny)
    assert list(budget_questions(question, short)) == []
    timed = make_question(tiny, "train.max_seconds=9").arms[1]
    with pytest.raises(KitError, match=r"--tokens-saved: train.max_seconds ends the runs"):
        check_budgets(replace(question, arms=(question.base, timed)))
