"""The plan of a run's steps: what each has is what a list written by hand has, to the token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import pytest

from nanogpt_kit.api import Field, Schedule
from nanogpt_kit.core import step_plan
from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.step_plan import BATCH_TOKENS, BLOCK_SIZE, PlanError, StepBatch, StepPlan

BLOCK = 24


class Stairs(Schedule):
    """The multipliers of equal parts of the run."""

    values: tuple[Annotated[float, Field(allow_inf_nan=True)], ...]

    def multiplier(self, step: int, total_steps: float) -> float:
        return self.values[min(len(self.values) - 1, math.floor(step / total_steps * len(self.values)))]


def make_plan(
    steps: int = 12,
    batch: Sequence[float] = (),
    length: Sequence[float] = (),
    max_tokens: int | None = None,
    windows: int = 10,
) -> StepPlan:
    stairs = [Stairs(values=tuple(values)) if values else None for values in (batch, length)]
    return StepPlan(windows * BLOCK, BLOCK, steps, max_tokens, *stairs)


def windows_of(plan: StepPlan) -> list[int]:
    return [plan.at(step).n_windows for step in range(plan.total_steps)]


def test_without_schedules_all_steps_are_alike() -> None:
    plan = make_plan(10**12)
    assert plan.at(10**11) == StepBatch(10**12, 10, BLOCK)
    assert (plan.total_steps, plan.total_tokens) == (10**12, 240 * 10**12)
    assert make_plan(10**12, max_tokens=1000).total_steps == 4


def test_a_batch_is_the_scheduled_one_rounded_down_to_whole_windows_and_begins_where_the_one_before_ends() -> None:
    plan = make_plan(8, batch=(0.01, 0.29, 0.3, 1.55))
    assert windows_of(plan) == [1, 1, 2, 2, 3, 3, 15, 15]  # at least one; 0.3 * 10 is not below 3
    assert [plan.at(step).first_window for step in range(9)] == [0, 1, 2, 4, 6, 9, 12, 27, 42]
    assert [plan.tokens(step) for step in (0, 1, 4, 8)] == [0, 24, 6 * 24, 42 * 24]
    assert (plan.total_tokens, plan.largest_step, plan.most_windows) == (42 * 24, 6, 15)
    assert plan.at(10) == StepBatch(72, 15, BLOCK)  # after the end


def test_lengths_are_the_divisors_of_block_size_below_the_scheduled_ones() -> None:
    plan = make_plan(10, length=(0.01, 1 / 3, 0.49, 0.5, 1.0))
    assert [plan.at(step).length for step in range(10)] == [1, 1, 8, 8, 8, 8, 12, 12, 24, 24]
    assert [plan.at(step).first_window for step in range(10)] == list(range(0, 100, 10))  # the windows stay the same
    assert (plan.total_tokens, plan.most_windows) == (2400, 10)


@pytest.mark.parametrize(("block_size", "is_noted"), [(22, True), (23, True), (24, False), (16, False)])
def test_a_block_size_with_few_divisors_is_noted_where_windows_are_cut(
    block_size: int, is_noted: bool, tmp_path: Path
) -> None:
    sizes = (f"model.block_size={block_size}", f"train.batch_tokens={5 * block_size}")
    notes = load(tmp_path, *sizes, "schedule.1.target=model.block_size").notes
    assert len([note for note in notes if "has no divisor between" in note]) == is_noted
    if is_noted:
        (note,) = notes
        cut, following = {22: (2, 11), 23: (1, 23)}[block_size]
        assert note.startswith(f"schedule.1: windows are cut into parts of {cut} where the schedule gives {cut} to ")
        assert f"{cut} to {following - 1} tokens, since model.block_size ({block_size})" in note
    assert load(tmp_path, *sizes).notes == ()


def test_a_budget_of_tokens_ends_a_growing_batch_before_it_is_exceeded() -> None:
    """By hand: at 1, 2, 3, ... windows a step its tokens are those of the fraction of tokens before it."""
    values = (0.1, 0.2, 0.4)
    plan = make_plan(10**12, batch=values, max_tokens=20 * BLOCK + 5)
    expected: list[int] = []
    while True:
        fraction = sum(expected) * BLOCK / (20 * BLOCK + 5)
        windows = round(10 * values[min(2, int(fraction * 3))])
        if sum(expected) + windows > 20:
            break
        expected.append(windows)
    assert windows_of(plan) == expected == [1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 4]
    assert plan.total_tokens == 19 * BLOCK
    assert make_plan(10**12, batch=values, max_tokens=BLOCK).total_steps == 1


def test_the_pace_is_the_length_of_the_run_and_with_a_budget_of_tokens_that_of_the_steps_so_far() -> None:
    assert make_plan(12, batch=(0.1, 1.0)).pace(5) == 12
    assert make_plan(12, length=(0.5, 1.0), max_tokens=2400).pace(5) == 10
    plan = make_plan(10**6, batch=(0.1, 0.2), max_tokens=1200)
    assert [plan.pace(step) for step in (1, 10)] == [50, 50]  # at one window a step
    assert plan.pace(26) == pytest.approx(26 / (plan.tokens(26) / 1200)) != 50
    assert make_plan(30, batch=(0.1, 0.2), max_tokens=1200).pace(10) == 30  # its steps end it first


@pytest.mark.parametrize(
    "values", [(math.nan, 1.0), (1.0, math.inf), (1.0, 0.0), (-0.5, 1.0), (1e12, 1.0), (1.0, 1e12)]
)
def test_a_multiplier_that_makes_no_batch_is_blamed_on_its_schedule(values: tuple[float, ...]) -> None:
    with pytest.raises(PlanError) as refused:
        make_plan(batch=values).check()
    assert refused.value.target == BATCH_TOKENS
    where = f"the multiplier of step {1 if values[1] == 1.0 else 7} "
    assert where in str(refused.value)
    with pytest.raises(PlanError) as refused:
        make_plan(length=values).check()
    assert refused.value.target == BLOCK_SIZE
    assert where in str(refused.value)


def test_a_run_too_long_for_a_plan_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_plan, "MAX_STEPS", 100)
    make_plan(100, batch=(0.1, 1.0)).check()
    with pytest.raises(PlanError, match=r"at most 100 steps, and train\.steps is 101"):
        make_plan(101, batch=(0.1, 1.0)).check()
    make_plan(10**12, batch=(0.1, 1.0), max_tokens=2400).check()  # of fewer steps
    with pytest.raises(PlanError, match=r"train\.max_tokens"):
        make_plan(10**12, length=(0.1, 1.0), max_tokens=101 * 240).check()
    with pytest.raises(PlanError, match=r"at most 100 steps"):
        make_plan(10**12, batch=(0.1, 1.0), max_tokens=101 * 240).check()


BASE = """\
name = "exp"
dataset = "python_stdlib"
tokenizer = "byte"
optimizer = "adamw"
[[schedule]]
use = "constant"
[[schedule]]
use = "linear"
warmup_steps = 4
final_fraction = 1
target = "train.batch_tokens"
[model]
use = "gpt"
n_layer = 1
n_head = 3
n_embd = 24
block_size = 16
[train]
steps = 20
batch_tokens = 80
"""


def load(folder: Path, *overrides: str) -> Experiment:
    (folder / "exp.toml").write_text(BASE, encoding="utf-8")
    return Experiment.load(folder / "exp.toml", overrides)


def only_fault(folder: Path, *overrides: str) -> Fault:
    with pytest.raises(KitError) as refused:
        load(folder, *overrides)
    (fault,) = refused.value.faults
    return fault


def test_an_experiment_has_the_plan_of_its_schedules(tmp_path: Path) -> None:
    experiment = load(tmp_path)
    assert windows_of(experiment.step_plan) == [1, 2, 3, 4, *[5] * 16]
    assert (experiment.total_steps, experiment.total_tokens, experiment.tokens(3)) == (20, 90 * 16, 96)
    assert experiment.step_plan is experiment.step_plan
    longer = experiment.model_copy(update={"train": experiment.train.model_copy(update={"steps": 21})})
    assert (longer.total_tokens, experiment.total_tokens) == (95 * 16, 90 * 16)
    lengths = experiment.with_({"schedule.1.target": "model.block_size"}).step_plan
    assert [lengths.at(step).length for step in range(6)] == [2, 4, 8, 8, 16, 16]
    assert lengths.total_tokens == 1600


def test_no_batch_follows_a_clock(tmp_path: Path) -> None:
    fault = only_fault(tmp_path, "train.max_seconds=9")
    assert (fault.key, fault.location) == ("train.max_seconds", "command line")
    assert all(word in fault.message for word in ("train.batch_tokens", "clock", "train.max_tokens"))
    fault = only_fault(tmp_path, "train.max_seconds=9", "schedule.1.target=model.block_size")
    assert "a schedule of model.block_size" in fault.message
    load(tmp_path, "train.max_seconds=9", "train.max_tokens=1440")


def test_impossible_plans_are_faults_of_their_schedule(tmp_path: Path) -> None:
    fault = only_fault(tmp_path, f"train.steps={10**9}")
    assert fault.key == "schedule.1.target"
    assert fault.location.endswith("exp.toml:11")
    assert all(word in fault.message for word in ("2,000,000", "1,000,000,000", "train.max_tokens"))
    fault = only_fault(tmp_path, "train.max_tokens=15")
    assert (fault.key, fault.location) == ("train.max_tokens", "command line")
    assert "the 16 tokens of the first step" in fault.message
    assert load(tmp_path, "train.max_tokens=16").total_steps == 1


@pytest.mark.parametrize(("found", "shown"), [("float('nan')", "nan"), ("None", "None"), ("'1'", "'1'")])
def test_a_component_whose_multiplier_is_no_finite_number_is_refused_when_it_is_loaded(
    tmp_path: Path, found: str, shown: str
) -> None:
    (tmp_path / "broken.py").write_text(
        "from nanogpt_kit.api import Schedule\n"
        "class Broken(Schedule):\n"
        "    def multiplier(self, step, total_steps):\n"
        f"        return {found} if step == 16 else 1.0\n",
        encoding="utf-8",
    )
    fault = only_fault(tmp_path, 'components=["broken.py"]', "schedule.1={use='broken', target='model.block_size'}")
    assert fault.key == "schedule.1.target"
    assert f"the multiplier of step 17 is {shown};" in fault.message
