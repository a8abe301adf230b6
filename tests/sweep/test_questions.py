"""Comparisons and ablations from Python."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.comparison.question import Question
from nanogpt_kit.comparison.record import ArmRecord, Comparison, Look, Result
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.sweep import questions


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Question, Sequence[int], dict[str, Any]]]:
    """What would have been run."""
    calls: list[Any] = []
    monkeypatch.setattr(questions, "run_comparison", lambda *words, **options: calls.append((*words, options)))
    return calls


def test_contenders_are_words_dicts_and_experiments(tiny: Path, asked: list[Any]) -> None:
    base = Experiment.load(tiny, ["train.seed=7"])
    other = base.with_(name="other", model={"n_layer": 1})
    options = {"metric": "val/bits_per_byte", "text": "why?", "workers": 2, "again": True}
    questions.compare(base, "model.mlp=swiglu", {"model.norm": "rmsnorm", "optimizer.lr": 1e-2}, other, **options)
    ((question, seeds, rest),) = asked
    assert [arm.label for arm in question.arms[1:]] == [
        "model.mlp=swiglu",
        "model.norm=rmsnorm optimizer.lr=0.01",
        "other",
    ]
    assert [set(arm.changes) & {"model.norm.use", "optimizer.lr", "model.n_layer"} for arm in question.arms] == [
        set(),
        set(),
        {"model.norm.use", "optimizer.lr"},
        {"model.n_layer"},
    ]
    assert (question.kind, question.metric, question.text) == ("compare", "val/bits_per_byte", "why?")
    assert (list(seeds), rest["workers"], rest["again"]) == ([7, 8, 9, 10, 11], 2, True)


def test_a_file_is_a_base_too(tiny: Path, asked: list[Any]) -> None:
    questions.compare(tiny, "model.n_layer=1", seeds=2)
    ((question, seeds, _),) = asked
    assert (question.base.experiment, list(seeds)) == (Experiment.load(tiny), [1337, 1338])


def test_finished_runs_are_compared_without_seeds(
    tiny: Path, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    finished: list[Any] = []
    monkeypatch.setattr(questions, "compare_finished", lambda *words: finished.append(words))
    questions.compare(tiny, "note='rarer logs' train.log_every_steps=2", seeds=None)
    ((question, command),) = finished
    assert (asked, question.text, command.startswith("nanogpt_kit.compare(")) == ([], "rarer logs", True)


def test_mistakes_are_sentences(tiny: Path, asked: list[Any]) -> None:
    with pytest.raises(KitError, match="expected a contender"):
        questions.compare(tiny)
    change = "model.n_layer=1"
    wrong: dict[str, dict[str, Any]] = {
        "seeds should be a whole number of at least 1, got 0": {"seeds": 0},
        "seeds should be a whole number of at least 1, got '3'": {"seeds": "3"},
        "workers should be a whole number of at least 1, got 0": {"workers": 0},
        "direction should be 'minimize' or 'maximize', got 'up'": {"direction": "up"},
        "text should be text, got 5": {"text": 5},
    }
    for sentence, options in wrong.items():
        with pytest.raises(KitError, match=re.escape(sentence)):
            questions.compare(tiny, change, **options)
    with pytest.raises(KitError, match="a contender should be an Experiment, a text or a dict of options, got 3"):
        questions.compare(tiny, 3)  # type: ignore[arg-type]
    with pytest.raises(KitError, match="the base should be an Experiment, a file or a name, got 3"):
        questions.compare(3, change)  # type: ignore[arg-type]
    with pytest.raises(KitError, match=r"model\.mlp should have a list of values, as in {'model\.mlp': \['gelu'\]}"):
        questions.ablate(tiny, {"model.mlp": "gelu"})
    with pytest.raises(KitError, match=r"optimizer\.lrr.*did you mean"):
        questions.compare(tiny, "optimizer.lrr=1")
    with pytest.raises(KitError, match=r"optimizer\.lrr.*did you mean"):
        questions.compare(tiny, {"optimizer.lrr": 1})
    assert not asked


def test_an_ablation_takes_values_and_options_of_its_table(tiny: Path, asked: list[Any]) -> None:
    vary = {"model.mlp": ["gelu", "swiglu"], "optimizer.lr": [3e-3, 1e-2]}
    questions.ablate(tiny, vary, seeds=2, metric="val/bits_per_byte")
    ((question, seeds, _),) = asked
    assert [arm.label for arm in question.arms] == ["tiny", "model.mlp=swiglu", "optimizer.lr=0.01"]
    assert (question.kind, question.metric, list(seeds)) == ("ablate", "val/bits_per_byte", [1337, 1338])
    with pytest.raises(KitError, match=r"ablate\.sedes"):
        questions.ablate(tiny, {"model.mlp": ["swiglu"]}, sedes=2)
    with pytest.raises(KitError, match="nothing to compare"):
        questions.ablate(tiny)


def test_a_comparison_is_printed_as_the_command_prints_it() -> None:
    arms = tuple(ArmRecord(label=name, experiment="mine", configuration=name) for name in ("mine", "a\nb", "c"))
    comparison = Comparison(
        id="0" * 12,
        kind="compare",
        command="",
        started=0.0,
        time=1.0,
        metric="val/loss",
        direction="minimize",
        yardstick="",
        arms=arms,
        looks=(Look(seeds=(1, 2), time=1.0),),
        measurements=(),
        results=(Result(arm=2, seeds=(1, 2), verdict="worse"), Result(arm=1, seeds=(1, 2), verdict="better")),
    )
    assert comparison.verdicts == {"c": "worse", "a\nb": "better"}
    assert repr(comparison) == "<Comparison with mine: c worse, a b better; val/loss, seeds [1, 2]>"
    assert str(comparison).splitlines()[0] == "val/loss at the last evaluation; lower is better"
