"""A test split is opened once in the whole ledger."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from nanogpt_kit.comparison.comparison import make_comparison
from nanogpt_kit.comparison.question import Question
from nanogpt_kit.comparison.record import Comparison
from nanogpt_kit.comparison.split_opening import (
    OPENING,
    SplitOpening,
    check_may_open,
    open_test_split,
    opening_lines,
    read_openings,
)
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.runs.folder import RunFolder
from tests.comparison.made_arms import DATA, make_question, measure_arms

BASE, SWIGLU = {3: 4.5, 5: 4.75, 7: 4.25}, {3: 4.25, 5: 4.5, 7: 4.125}
WITH_TEST = DATA.model_copy(update={"splits": {**DATA.splits, "test": "test-ids"}})


class Evaluator:
    """Measures a run on the test split: its loss on the validation split and half of it."""

    def __init__(self) -> None:
        self.runs: list[RunFolder] = []

    def __call__(self, run: RunFolder) -> Mapping[str, float | None]:
        self.runs.append(run)
        seed = run.seed() or 0
        arm = SWIGLU if "swiglu" in run.experiment.read_text() else BASE
        return {"test/loss": 1.5 * arm[seed]}


@pytest.fixture
def question(tiny: Path) -> Question:
    text = tiny.read_text().replace("[tokenizer]", "test_fraction = 0.25\n\n[tokenizer]")
    tiny.write_text(text)
    return make_question(tiny, "model.mlp=swiglu")


def compared(question: Question, **origin: object) -> Comparison:
    measurements = measure_arms(question, [BASE, SWIGLU], **({"data": WITH_TEST} | origin))
    return make_comparison(question, measurements, "compare tiny model.mlp=swiglu")


def opened(question: Question, comparison: Comparison, evaluate: Evaluator) -> SplitOpening:
    return open_test_split(question, comparison, "compare --open-test", evaluate)


def test_every_run_is_judged_on_the_test_split(question: Question) -> None:
    comparison, evaluate = compared(question), Evaluator()
    opening = opened(question, comparison, evaluate)
    assert [one.value for one in opening.measurements] == [1.5 * value for value in (*BASE.values(), *SWIGLU.values())]
    assert opening.results is not None
    assert opening.results[0].difference == pytest.approx(1.5 * (comparison.results[0].difference or 0))
    assert len(evaluate.runs) == 6
    assert any("test/loss" in line for line in opening_lines(comparison, opening))


def test_the_same_comparison_shows_its_record_again(question: Question) -> None:
    comparison, evaluate = compared(question), Evaluator()
    first = opened(question, comparison, evaluate)
    assert opened(question, comparison, evaluate) == first
    assert len(evaluate.runs) == 6


def test_an_opening_that_was_stopped_continues(question: Question) -> None:
    comparison, evaluate = compared(question), Evaluator()
    first = opened(question, comparison, evaluate)
    path = question.folder() / OPENING
    first.model_copy(update={"results": None, "measurements": comparison.measurements}).write(path)
    again = opened(question, comparison, evaluate)
    assert (again.results, again.time) == (first.results, first.time)


def test_the_split_is_closed_to_others_before_a_value_of_it_is_seen(tiny: Path, question: Question) -> None:
    def stop(run: RunFolder) -> Mapping[str, float | None]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_test_split(question, compared(question), "compare --open-test", stop)
    other = make_question(tiny, ["model.mlp=swiglu", "model.bias=true"])
    with pytest.raises(KitError, match="was opened on"):
        opened(other, compared_again(other, WITH_TEST), Evaluator())


@pytest.mark.parametrize("splits", [{"test": "test-ids", "val": "other"}, {"test": "other tokens", "val": "other"}])
def test_another_comparison_of_the_split_or_its_text_is_refused(
    tiny: Path, question: Question, splits: dict[str, str]
) -> None:
    opened(question, compared(question), Evaluator())
    other = make_question(tiny, ["model.mlp=swiglu", "model.bias=true"])
    dataset = "another text" if splits["test"] == "test-ids" else DATA.dataset
    data = WITH_TEST.model_copy(update={"splits": splits, "dataset": dataset})
    evaluate, comparison = Evaluator(), compared_again(other, data)
    with pytest.raises(KitError) as caught:
        opened(other, comparison, evaluate)
    assert f"{question.folder() / OPENING}" in str(caught.value)
    assert "by `compare --open-test`" in str(caught.value)
    assert evaluate.runs == []


def compared_again(question: Question, data: object) -> Comparison:
    """A comparison of other runs, with other seeds."""
    values = [{seed + 10: value for seed, value in arm.items()} for arm in (BASE, SWIGLU)]
    measurements = measure_arms(question, values, data=data)
    return make_comparison(question, measurements, "")


def test_added_seeds_are_another_comparison(question: Question) -> None:
    comparison = compared(question)
    opened(question, comparison, Evaluator())
    more = compared_again(question, WITH_TEST)
    with pytest.raises(KitError, match="was opened on"):
        opened(question, more, Evaluator())


def test_a_dataset_without_a_test_split_names_the_option(question: Question) -> None:
    comparison = compared(question, data=DATA)
    with pytest.raises(KitError, match=r"--open-test: the dataset of tiny has no test split; dataset.test_fraction"):
        opened(question, comparison, Evaluator())
    assert read_openings() == []


def test_what_is_known_before_the_runs_is_refused_before_them(tiny: Path, question: Question) -> None:
    check_may_open(question, BASE)
    data = WITH_TEST.model_copy(update={"dataset": question.base.experiment.dataset.fingerprint()})
    opened(question, compared(question, data=data), Evaluator())
    check_may_open(question, BASE)
    with pytest.raises(KitError, match="was opened on"):
        check_may_open(question, [*BASE, 9])
    with pytest.raises(KitError, match="was opened on"):
        check_may_open(question, BASE, again=True)
    with pytest.raises(KitError, match="was opened on"):
        check_may_open(make_question(tiny, "model.bias=true"), BASE)
    with pytest.raises(KitError, match="hellaswag/accuracy is not measured on a split"):
        check_may_open(make_question(tiny, "model.bias=true", metric="hellaswag/accuracy"), BASE)
    with pytest.raises(KitError, match="no test split"):
        check_may_open(make_question(tiny, "dataset.test_fraction=0"), BASE)


def test_a_split_that_no_evaluator_can_measure_stays_closed(tiny: Path, question: Question) -> None:
    with pytest.raises(KitError, match="no evaluator of tiny has an option `split`"):
        check_may_open(make_question(tiny, "evaluator=['samples']"), BASE)
    reason = "no evaluator of .* measures test/loss; they measure test/bits_per_byte"
    with pytest.raises(KitError, match=f"--open-test: {reason}"):
        check_may_open(make_question(tiny, "evaluator=['bits_per_byte']"), BASE)


def test_a_record_that_cannot_be_read_keeps_every_split_closed(question: Question) -> None:
    comparison = compared(question)
    opened(question, comparison, Evaluator())
    path = question.folder() / OPENING
    path.write_text(path.read_text()[:-20])
    with pytest.raises(KitError, match=f"{OPENING} cannot be read.*unknown"):
        opened(question, comparison, Evaluator())
