"""Notes: what differs between runs that compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.comparison.comparability import check_measurements
from nanogpt_kit.comparison.measurement import measure_run
from nanogpt_kit.comparison.question import Question
from nanogpt_kit.runs.provenance import BranchedFrom, InitFrom
from tests.comparison.made_arms import DATA, MACHINE, make_arm_run, make_question

LOSS = {20: {"val/loss": 2.5}}


def notes(question: Question, runs: dict[tuple[int, int], dict[str, Any]]) -> tuple[str, ...]:
    """`runs` has the details of each run by arm and seed."""
    measured = [
        measure_run(make_arm_run(question.arms[arm], seed, LOSS, **details), "val/loss", arm)
        for (arm, seed), details in runs.items()
    ]
    return check_measurements(question, measured).notes


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ({"distributions": {"nanogpt-kit": "0.4", "torch": "2.12"}}, "nanogpt-kit: 0.3 (tiny), 0.4 (model.mlp=relu2)"),
        ({"distributions": {"nanogpt-kit": "0.3", "torch": "2.13"}}, "torch: 2.12 (tiny), 2.13 (model.mlp=relu2)"),
        ({"machine": MACHINE.model_copy(update={"host": "node7"})}, "machine: desk (tiny), node7 (model.mlp=relu2)"),
        ({"machine": MACHINE.model_copy(update={"precision": "bf16"})}, "precision: fp32 (tiny), bf16"),
        ({"machine": MACHINE.model_copy(update={"threads": 8})}, "threads: 1 (tiny), 8 (model.mlp=relu2)"),
        ({"machine": MACHINE.model_copy(update={"processes": 2})}, "processes: 1 (tiny), 2 (model.mlp=relu2)"),
        ({"machine": MACHINE.model_copy(update={"gpu": "H9"})}, "device: not recorded (tiny), H9 (model.mlp=relu2)"),
        (
            {"init_from": InitFrom(checkpoint="long/4", sha256="0")},
            "first weights: random (tiny), long/4 (model.mlp=relu2)",
        ),
    ],
)
def test_what_may_change_results_besides_the_change_is_noted(tiny: Path, origin: dict[str, Any], expected: str) -> None:
    (note,) = notes(make_question(tiny, "model.mlp=relu2"), {(0, 3): {}, (1, 3): origin})
    assert note.startswith(f"the runs differ in {expected}")


def test_seeds_are_named_where_only_some_of_an_arm_differ(tiny: Path) -> None:
    other = {"distributions": {"nanogpt-kit": "0.3", "torch": "2.13"}}
    question = make_question(tiny, "model.mlp=relu2")
    runs = {(0, 3): {}, (0, 4): {}, (0, 5): {}, (1, 3): {}, (1, 4): other, (1, 5): other}
    (note,) = notes(question, runs)
    older, newer = "tiny and model.mlp=relu2 with seed 3", "model.mlp=relu2 with seeds 4 and 5"
    assert note == f"the runs differ in torch: 2.12 ({older}), 2.13 ({newer})"


def test_edited_code_is_noted_except_where_arms_use_other_plugins(tiny: Path) -> None:
    question = make_question(tiny, "model.mlp=relu2")
    (note,) = notes(question, {(0, 3): {}, (1, 3): {"code": "edited"}})
    assert note == "the code of the kit or of a plugin was changed between runs: tiny; then model.mlp=relu2"
    plugin = {"code": "another", "components": {"model": "my-plugin/gpt"}}
    assert notes(question, {(0, 4): {}, (1, 4): plugin}) == ()


def test_other_windows_are_noted(tiny: Path) -> None:
    (note,) = notes(make_question(tiny, "model.block_size=8"), {(0, 3): {}, (1, 3): {}})
    assert note.startswith("model.block_size=8 is evaluated in windows of 8 tokens and tiny in windows of 16")


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (4500, ["model.n_embd=36 has 50% more parameters than tiny (4,500 against 3,000)"]),
        (2900, ["model.n_embd=36 has 3% fewer parameters than tiny (2,900 against 3,000)"]),
        (3014, []),
    ],
)
def test_another_size_is_noted_in_percent_unless_that_is_0(tiny: Path, parameters: int, expected: list[str]) -> None:
    runs: dict[tuple[int, int], dict[str, Any]] = {(0, 3): {}, (1, 3): {"status": {"parameters": parameters}}}
    assert list(notes(make_question(tiny, "model.n_embd=36"), runs)) == expected


def test_a_size_that_is_almost_the_same_is_not_noted(tiny: Path) -> None:
    runs: dict[tuple[int, int], dict[str, Any]] = {(0, 3): {}, (1, 3): {"status": {"parameters": 3005}}}
    assert notes(make_question(tiny, "model.qk_norm=true"), runs) == ()


def test_seeds_without_a_pair_are_noted(tiny: Path) -> None:
    (note,) = notes(make_question(tiny, "model.mlp=relu2"), {(0, 3): {}, (0, 4): {}, (1, 3): {}})
    assert note == "tiny has seed 4 and model.mlp=relu2 has not, so that there is no pair"


def test_runs_that_did_not_begin_at_step_0_or_were_changed_are_noted(tiny: Path) -> None:
    question = make_question(tiny, "model.mlp=relu2")
    branch = BranchedFrom(checkpoint="elsewhere", sha256="")
    first, second = notes(question, {(0, 3): {"branched_from": branch}, (1, 3): {"changed_at_step": 10}})
    assert first.startswith("tiny with seed 3 began from a checkpoint of another run")
    assert second == "model.mlp=relu2 with seed 3 was resumed with other options or other code at step 10"


def test_another_training_text_with_the_same_validation_text_is_noted(tiny: Path, tmp_path: Path) -> None:
    question = make_question(tiny, f"dataset.source={tmp_path}")
    other = DATA.model_copy(update={"dataset": "longer text"})
    (note,) = notes(question, {(0, 3): {}, (1, 3): {"data": other}})
    assert note.endswith("is trained on another text than tiny; both are evaluated on the same")
