"""A test split is closed for every verb; opening it measures a checkpoint once, and is recorded in its run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit import open_run
from nanogpt_kit.core.errors import KitError, RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.opened_test import OPENED_TEST, read_opened_tests
from nanogpt_kit.train import open_test, session
from nanogpt_kit.train.open_test import measure_test_split

Command = Callable[..., Any]
CLOSED = "a test split is opened only once, by `nanogpt-kit compare ... --open-test`"
TEST = "evaluator=[{use='loss', split='test'}]"
QUIET = ("callback=[]", "sample.num_samples=0", "train.compile=off", "train.steps=6")
UNDECLARED = """\
from nanogpt_kit.api import Evaluator


class Peek(Evaluator):
    def evaluate(self, ctx):
        return {"peek/loss": ctx.split_loss("test").nats}
"""


@pytest.fixture
def split(tiny: Path) -> Path:
    """The tiny experiment on documents with a test split."""
    lines = (json.dumps({"text": f"{n} times {n + 7} is {n * (n + 7)}"}) for n in range(300))
    (tiny.parent / "text.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    text = tiny.read_text(encoding="utf-8").replace("text.txt", "text.jsonl")
    tiny.write_text(text.replace('use = "text"', 'use = "text"\ntest_fraction = 0.2'), encoding="utf-8")
    return tiny


def trained(split: Path, *overrides: str) -> RunFolder:
    return session.run(Experiment.load(split, [*QUIET, *overrides]))


@pytest.mark.parametrize("name", ["loss", "bits_per_byte"])
@pytest.mark.parametrize("verb", ["run", "check", "sweep"])
def test_an_evaluator_of_the_test_split_is_refused_before_anything_runs(
    split: Path, command: Command, verb: str, name: str
) -> None:
    space = ["sweep.space.optimizer.lr={choice=[1e-3, 2e-3]}", f"sweep.metric=test/{name}"] if verb == "sweep" else []
    refused = command(verb, split, f"evaluator=[{{use='{name}', split='test'}}]", *space)
    assert refused.code == 2
    assert f'command line: evaluator.0: {CLOSED}; use split = "val" here' in refused.err
    assert not (split.parent / "data").exists()
    assert not list((split.parent / "runs").glob("*/*/metrics.jsonl"))


def test_eval_and_evaluate_refuse_it(split: Path, command: Command) -> None:
    folder = trained(split)
    refused = command("eval", folder, "--evaluator", '{use="loss", split="test"}')
    assert (refused.code, refused.out) == (2, "")
    assert CLOSED in refused.err
    with pytest.raises(KitError, match=r"evaluator\.0: a test split is opened only once"):
        open_run(folder).evaluate({"use": "bits_per_byte", "split": "test"})
    assert not (folder.path / OPENED_TEST).exists()


def test_an_evaluator_that_does_not_declare_it_is_refused_when_it_asks(split: Path, command: Command) -> None:
    (split.parent / "peek.py").write_text(UNDECLARED, encoding="utf-8")
    local = ("components=['peek.py']", "evaluator=['peek']")
    with pytest.raises((KitError, RunFailed), match="a test split is opened only once"):
        session.run(Experiment.load(split, [*QUIET, *local], trust_code=True))
    folder = trained(split, local[0])
    assert CLOSED in command("eval", folder, "evaluator=['peek']").err


def test_a_dataset_without_a_test_split_is_named(tiny: Path, command: Command) -> None:
    assert "evaluator.0: the dataset has no split 'test'" in command("check", tiny, TEST).err
    with pytest.raises(KitError, match="the dataset has no split 'test'"):
        measure_test_split(trained(tiny))
    with pytest.raises(KitError, match=r"no evaluator of tiny has an option `split`"):
        measure_test_split(trained(tiny, "evaluator=['samples']"))


def test_opening_it_measures_the_runs_evaluators_on_it_and_is_recorded(split: Path) -> None:
    folder = trained(split)
    measured_now = measure_test_split(folder)
    (opened,) = read_opened_tests(folder)
    assert opened == measured_now
    assert opened.metrics.keys() == {"test/loss", "test/bits_per_byte"}
    assert opened.step == 6
    assert opened.yardsticks.keys() == {"", *opened.metrics}
    assert opened.yardsticks["test/loss"] != folder.provenance().yardsticks["val/loss"]
    measured = open_run(folder).evaluate()
    assert math.isclose(opened.metrics["test/loss"] or 0.0, measured["val/loss"], rel_tol=0.05)
    assert opened.metrics["test/loss"] != measured["val/loss"]


def test_it_is_evaluated_once_for_a_checkpoint(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = trained(split, "schedule=constant")
    first = measure_test_split(folder)
    with monkeypatch.context() as patch:
        patch.setattr(open_test, "evaluate_trained_model", lambda *_, **__: pytest.fail("evaluated again"))
        assert measure_test_split(folder) == first
    session.run(Experiment.load(split, [*QUIET, "schedule=constant", "train.steps=12"]), resume=str(folder))
    second = measure_test_split(folder)
    assert read_opened_tests(folder) == (first, second)
    assert (first.step, second.step) == (6, 12)


def test_it_uses_the_weights_that_the_runs_own_evaluations_used(split: Path) -> None:
    averaged = trained(split, "callback=[{use='ema', decay=0.99}]")
    trained_weights = trained(split, "callback=[{use='ema', decay=0.99, evaluate=false}]")
    first, second = measure_test_split(averaged), measure_test_split(trained_weights)
    assert (first.used, second.used) == ("EMA", "")
    assert first.metrics["test/loss"] != second.metrics["test/loss"]
    assert first.metrics["test/loss"] == measure_test_split(averaged).metrics["test/loss"]


def test_a_damaged_record_is_refused(split: Path) -> None:
    folder = trained(split)
    (folder.path / OPENED_TEST).write_text('{"format": 2, "openings": [{}]}')
    with pytest.raises(KitError, match=r"test\.json cannot be read: 'openings\.0\.time'"):
        measure_test_split(folder)
