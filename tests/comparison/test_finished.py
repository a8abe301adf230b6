"""A comparison of finished runs: which seeds, and which runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nanogpt_kit.comparison.finished import compare_finished, runs_by_seed
from nanogpt_kit.comparison.question import Question
from nanogpt_kit.core.code_identity import code_identity
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.index import index_runs
from tests.comparison.made_arms import DATA, make_arm_run, make_question

DIVERGED = {"state": "failed", "ended_by": "fault", "cause": "not_finite", "reason": "the loss is nan"}


def trained(
    question: Question, arm: int, seeds: dict[int, float], status: dict[str, object] | None = None
) -> list[RunFolder]:
    """Runs that answer the question as if they had been trained."""
    one = question.arms[arm]
    data = DATA.model_copy(update={"dataset": one.experiment.dataset.fingerprint()})
    origin = {"code": code_identity(one.experiment), "data": data}
    return [make_arm_run(one, seed, {20: {"val/loss": loss}}, status, **origin) for seed, loss in seeds.items()]


@pytest.fixture
def question(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Question:
    monkeypatch.setattr("nanogpt_kit.comparison.finished.check_arms", lambda question: None)  # it prepares the data
    return make_question(tiny, "model.mlp=swiglu")


def test_the_seeds_are_those_of_every_arm(question: Question) -> None:
    trained(question, 0, {3: 4.5, 5: 4.75, 7: 4.25})
    trained(question, 1, {5: 4.5, 7: 4.125, 9: 4.0})
    comparison = compare_finished(question)
    assert comparison.results[0].seeds == (5, 7)
    assert comparison.results[0].difference == pytest.approx(-0.1875)
    assert all(one.is_reused for one in comparison.measurements)


def test_named_runs_exclude_those_of_the_ledger(question: Question) -> None:
    named = trained(question, 0, {3: 4.5})
    trained(question, 0, {5: 4.75})
    arm = question.base
    assert sorted(runs_by_seed(arm, index_runs())) == [3, 5]
    assert sorted(runs_by_seed(replace(arm, runs=tuple(named)), index_runs())) == [3]


def test_a_contender_that_diverged_with_a_seed_is_not_better(question: Question) -> None:
    trained(question, 0, {3: 4.5, 5: 4.75, 7: 4.25, 9: 4.5})
    trained(question, 1, {3: 2.5, 5: 2.76, 7: 2.24})
    trained(question, 1, {9: 4.0}, DIVERGED)
    result = compare_finished(question).results[0]
    assert (result.seeds, result.verdict) == ((3, 5, 7), "undecided")
    assert "seed 9" in result.reason


def test_without_a_common_seed_the_seeds_of_each_arm_are_named(question: Question) -> None:
    trained(question, 0, {3: 4.5, 4: 4.5})
    trained(question, 1, {5: 4.5})
    with pytest.raises(KitError) as caught:
        compare_finished(question)
    text = str(caught.value)
    assert "tiny has seeds 3 and 4; model.mlp=swiglu has seed 5" in text
    assert text.endswith("`nanogpt-kit compare tiny model.mlp=swiglu --seeds 3` trains what is missing")


def test_the_proposed_command_asks_the_same_question(question: Question) -> None:
    with pytest.raises(KitError) as caught:
        compare_finished(replace(question, metric="mine/accuracy", direction="maximize"))
    command = "nanogpt-kit compare --metric mine/accuracy --direction maximize tiny model.mlp=swiglu --seeds 3"
    assert f"`{command}` trains what is missing" in str(caught.value)


def test_an_arm_that_was_never_trained_is_named(question: Question) -> None:
    trained(question, 0, {3: 4.5})
    with pytest.raises(KitError, match=r"model.mlp=swiglu has no finished run"):
        compare_finished(question)
