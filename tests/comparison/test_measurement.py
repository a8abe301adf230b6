"""The value of a run is that of its last full evaluation, with what the run cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.comparison.measurement import evaluations, measure_run
from nanogpt_kit.comparison.target import Evaluation
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.runs.folder import RunFolder
from tests.comparison.made_arms import make_arm_run, make_question


@pytest.fixture
def finished(tiny: Path) -> RunFolder:
    """A run that was best at step 10, with another metric in its last evaluation."""
    question = make_question(tiny)
    metrics = {5: {"val/loss": 3.5}, 10: {"val/loss": 2.25}, 20: {"val/loss": 2.75, "val/bits_per_byte": 1.5}}
    return make_arm_run(question.base, 7, metrics)


def test_the_value_is_that_of_the_last_evaluation_and_not_the_best(finished: RunFolder) -> None:
    measured = measure_run(finished, "val/loss", arm=2, is_reused=True)
    assert (measured.value, measured.steps, measured.tokens, measured.seconds) == (2.75, 20, 1600, 2.0)
    assert (measured.arm, measured.seed, measured.is_reused, measured.ended_by) == (2, 7, True, "steps")
    # logged are 900 tokens/s and 100 MiB, and 1 of each more with every step
    assert (measured.tokens_per_second, measured.memory_bytes, measured.parameters) == (910.0, 120 * 2**20, 3000)
    assert RunFolder(Path(measured.run)).status().step == 20


def test_a_metric_of_an_earlier_evaluation_only_is_refused_with_the_nearest_name(tiny: Path) -> None:
    metrics = {10: {"val/perplexity": 9.0, "val/loss": 2.5}, 20: {"val/loss": 2.75}}
    run = make_arm_run(make_question(tiny).base, 7, metrics)
    with pytest.raises(KitError) as caught:
        measure_run(run, "val/perplexity")
    (fault,) = caught.value.faults
    assert (fault.key, str(run)) == ("--metric", fault.location)
    assert "20" in fault.message
    assert "Allowed: val/loss." in fault.message
    with pytest.raises(KitError, match="did you mean 'val/loss'"):
        measure_run(run, "val/los")


def test_metrics_of_training_are_not_those_of_an_evaluation(finished: RunFolder) -> None:
    with pytest.raises(KitError, match="no metric 'train/loss'"):
        measure_run(finished, "train/loss")


@pytest.mark.parametrize("state", ["failed", "interrupted", "running"])
def test_a_run_that_did_not_finish_has_no_value_and_says_why(tiny: Path, state: str) -> None:
    status = {"state": state, "ended_by": "fault", "cause": "oom", "reason": "out of memory", "step": 20}
    run = make_arm_run(make_question(tiny).base, 7, {20: {"val/loss": 2.75}}, status)
    measured = measure_run(run, "val/loss")
    expected = "interrupted" if state == "running" else state  # no process holds its lock
    assert (measured.state, measured.value, measured.seconds) == (expected, None, 2.0)
    assert (measured.cause, measured.reason) != (None, "")


def test_a_metric_that_is_not_finite_is_no_value(tiny: Path) -> None:
    run = make_arm_run(make_question(tiny).base, 7, {20: {"val/perplexity": None, "val/loss": 2.75}})
    measured = measure_run(run, "val/perplexity")
    assert (measured.state, measured.value) == ("finished", None)
    assert measured.reason == "val/perplexity is not finite"


def test_a_run_without_steps_is_measured_at_step_0(tiny: Path) -> None:
    run = make_arm_run(make_question(tiny).base, 7, {0: {"val/loss": 4.5}})
    assert measure_run(run, "val/loss").value == 4.5


def test_an_imported_model_is_refused(tiny: Path) -> None:
    run = make_arm_run(make_question(tiny).base, 7, {0: {"val/loss": 4.5}}, {"imported": True})
    with pytest.raises(KitError, match="imported model"):
        measure_run(run, "val/loss")


def test_evaluations_are_all_of_a_run_with_finite_values(tiny: Path) -> None:
    metrics: dict[int, Any] = {5: {"val/loss": 3.5}, 10: {"val/loss": None}, 20: {"val/loss": 2.75}}
    run = make_arm_run(make_question(tiny).base, 7, metrics)
    with run.metrics.open("a") as file:  # damaged: no tokens
        file.write(json.dumps({"step": 30, "val/loss": 1.0}) + "\n")
    assert evaluations(run, "val/loss") == [Evaluation(5, 400, 0.5, 3.5), Evaluation(20, 1600, 2.0, 2.75)]


def test_runs_are_named_as_a_user_would(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_arm_run(make_question(tiny).base, 7, {20: {"val/loss": 2.75}})
    monkeypatch.chdir(tmp_path)
    assert measure_run(run, "val/loss").run == str(Path("runs", "tiny", run.path.name))
