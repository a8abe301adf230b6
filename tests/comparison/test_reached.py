"""The cost of a target, from the evaluations of the compared runs."""

from __future__ import annotations

from pathlib import Path

from nanogpt_kit.comparison.comparison import make_comparison
from nanogpt_kit.comparison.measurement import measure_run
from nanogpt_kit.comparison.reached import TargetTable
from nanogpt_kit.comparison.record import Comparison
from tests.comparison.made_arms import make_arm_run, make_question


def compared(tiny: Path) -> Comparison:
    """Evaluations at steps 5, 10 and 20; a step has 80 tokens and takes a tenth of a second."""
    question = make_question(tiny, "model.mlp=swiglu", "model.bias=true")
    curves = {
        0: {3: (5.0, 4.5, 4.25), 5: (5.0, 4.75, 4.25)},
        1: {3: (4.75, 4.25, 4.125), 5: (4.25, 4.5, 4.0)},
        2: {3: (5.5, 5.0, 4.75), 5: (5.5, 5.0, 4.875)},
    }
    measurements = []
    for arm, seeds in curves.items():
        for seed, losses in seeds.items():
            points = {step: {"val/loss": loss} for step, loss in zip((5, 10, 20), losses, strict=True)}
            run = make_arm_run(question.arms[arm], seed, points)
            measurements.append(measure_run(run, "val/loss", arm))
    return make_comparison(question, measurements, "")


def test_each_arm_stops_at_the_step_where_its_mean_reaches_the_target(tiny: Path) -> None:
    table = TargetTable.of(compared(tiny), 4.5)
    base, swiglu, bias = table.reached
    assert base is not None
    assert (base.step, base.tokens, base.seconds) == (20, 1600, 2.0)
    assert swiglu is not None
    assert (swiglu.step, swiglu.tokens, swiglu.seconds) == (5, 400, 0.5)
    assert bias is None


def test_the_table_has_ratios_and_names_arms_that_never_reach_it(tiny: Path) -> None:
    lines = TargetTable.of(compared(tiny), 4.5).lines()
    row = next(line for line in lines if line.startswith("model.mlp=swiglu"))
    assert "5 x0.25" in row
    assert "400 x0.25" in row
    assert any(line.startswith("model.bias=true never reaches val/loss 4.5") for line in lines)
    assert any("unfinished schedule" in line for line in lines)


def test_without_the_base_there_are_no_ratios(tiny: Path) -> None:
    lines = TargetTable.of(compared(tiny), 4.2).lines()
    assert not any("x" in line.removeprefix("model.mlp=swiglu") for line in lines if line.startswith("model.mlp"))
    assert sum("never reaches" in line for line in lines) == 2


def test_a_target_that_nothing_reaches_is_a_sentence_for_each_arm(tiny: Path) -> None:
    table = TargetTable.of(compared(tiny), 1.0)
    assert len(table.lines()) == 3
    assert table.record() == {"value": 1.0, "arms": [None, None, None]}
