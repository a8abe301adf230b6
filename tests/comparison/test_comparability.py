"""What does not compare is refused with every reason, before anything runs or after it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.comparison.comparability import check_arms, check_measurements
from nanogpt_kit.comparison.instruments import Instrument, measuring_fault
from nanogpt_kit.comparison.measurement import measure_run
from nanogpt_kit.comparison.question import Arm, Question
from nanogpt_kit.comparison.record import Measurement
from nanogpt_kit.components.schedule.constant import Constant
from nanogpt_kit.components.schedule.linear import Linear
from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Schedule
from tests.comparison.made_arms import DATA, YARDSTICKS, make_arm_run, make_question, measure_arms
from tests.data.mixtures import mixture, sentences

LOSS = {20: {"val/loss": 2.5, "val/bits_per_byte": 1.25}}
EVALUATOR = """\
from nanogpt_kit.api import EvaluateContext, Evaluator


class Probe(Evaluator):
    def metric_names(self):
        return ("val/probe",)

    def evaluate(self, ctx: EvaluateContext) -> dict[str, float]:
        return {"val/probe": 1.0}
"""


def faults_before(question: Question) -> list[Fault]:
    with pytest.raises(KitError) as caught:
        check_arms(question)
    return list(caught.value.faults)


def faults_after(question: Question, measurements: list[Measurement]) -> list[Fault]:
    with pytest.raises(KitError) as caught:
        check_measurements(question, measurements)
    return list(caught.value.faults)


def measured(question: Question, seeds: Mapping[int, int], *runs: Mapping[str, Any]) -> list[Measurement]:
    """A run of each arm with the details that `runs` has for it; `seeds` are those of each arm by index."""
    found = []
    for index, (arm, details) in enumerate(zip(question.arms, runs, strict=True)):
        run = make_arm_run(arm, seeds.get(index, 3), details.get("evaluations", LOSS), **without_evaluations(details))
        found.append(measure_run(run, question.metric, index))
    return found


def without_evaluations(details: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in details.items() if key != "evaluations"}


def test_arms_that_compare_pass(tiny: Path) -> None:
    check_arms(make_question(tiny, "model.mlp=swiglu", "model.n_embd=30", "optimizer.lr=1e-4"))


# Before anything runs


def test_a_metric_that_no_evaluator_reports_is_refused_for_each_arm(tiny: Path) -> None:
    without_bits = 'evaluator=["loss"]'
    first, second = faults_before(make_question(tiny, without_bits, metric="val/bits_per_bite"))
    assert (first.key, first.location) == ("--metric", "command line")
    assert "tiny reports 'val/bits_per_bite'; did you mean 'val/bits_per_byte'?" in first.message
    assert without_bits in second.message
    assert "Allowed: val/loss." in second.message
    (only,) = faults_before(make_question(tiny, without_bits, metric="val/bits_per_byte"))
    assert without_bits in only.message


@pytest.mark.parametrize("steps", [12, 30])
def test_other_budgets_are_refused(tiny: Path, steps: int) -> None:
    (fault,) = faults_before(make_question(tiny, f"train.steps={steps}"))
    assert (fault.key, fault.location) == ("train.steps", "command line")
    assert f"{steps} steps and {80 * steps:,} tokens" in fault.message
    assert "tiny has 20 steps and 1,600 tokens" in fault.message
    assert "same train.steps" in fault.message


def test_a_limit_of_tokens_that_makes_budgets_unequal_is_located(tiny: Path) -> None:
    (fault,) = faults_before(make_question(tiny, "train.max_tokens=800"))
    assert (fault.key, fault.location) == ("train.max_tokens", "command line")
    assert "has 10 steps and 800 tokens" in fault.message


def test_equal_steps_pass_and_so_do_equal_tokens(tiny: Path) -> None:
    check_arms(make_question(tiny, "train.batch_tokens=160", ["train.batch_tokens=160", "train.steps=10"]))


def test_a_limit_of_seconds_must_be_the_same(tiny: Path) -> None:
    faults = faults_before(make_question(tiny, ["train.max_seconds=60", "schedule=constant"]))
    assert [fault.key for fault in faults] == ["train.max_seconds"]
    assert "not set in tiny and 60 in train.max_seconds=60" in faults[0].message


def with_ramp(experiment: Experiment, schedule: Schedule) -> Experiment:
    return experiment.model_copy(update={"schedule": (*experiment.schedules, schedule)})


def test_a_limit_of_seconds_is_accepted_since_schedules_end_with_it(tiny: Path) -> None:
    base = Experiment.load(tiny, ["train.max_seconds=60", "train.steps=100000"])
    for schedule in ("cosine", "linear", "wsd", "constant", "{use = 'cosine', decay_steps = 10}"):
        experiment = base.with_(f"schedule={schedule}")
        check_arms(Question("compare", (Arm("a", experiment), Arm("b", experiment.with_("model.mlp=swiglu")))))


def test_a_limit_of_seconds_is_refused_where_it_cuts_off_a_schedule_of_batches(tiny: Path) -> None:
    """Which follows steps, since a batch is a function of the step."""
    base = Experiment.load(tiny, ["train.max_seconds=60", "train.steps=100000"])
    ramps = Linear(target="train.batch_tokens"), Constant(target="model.block_size")
    arms = [Arm(str(index), with_ramp(base, ramp)) for index, ramp in enumerate(ramps)]
    (fault,) = faults_before(Question("compare", tuple(arms)))
    assert fault.key == "train.max_seconds"
    assert fault.message.startswith("0: train.max_seconds ends a run before its schedule of train.batch_tokens, which")


def test_steps_need_not_be_equal_where_seconds_are(tiny: Path) -> None:
    base = Experiment.load(tiny, ["train.max_seconds=60", "schedule=constant"])
    check_arms(Question("compare", (Arm("a", base), Arm("b", base.with_("train.steps=35", "model.mlp=relu2")))))


def test_other_text_is_refused(tiny: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("something else entirely.\n" * 200)
    change = f"dataset.source={other}"
    (fault,) = faults_before(make_question(tiny, change))
    assert (fault.key, fault.location) == ("dataset", "command line")
    assert f"{change} and tiny are not evaluated on the same text" in fault.message
    assert "same dataset" in fault.message


def test_mixtures_of_other_parts_are_compared_on_the_parts_that_both_have(tiny: Path) -> None:
    both = mixture(tiny, code=sentences("code", 40), notes=sentences("notes", 40))
    code = mixture(tiny, code=sentences("code", 40))
    arms = Arm("one", both), Arm("two", code)
    (fault,) = faults_before(Question("compare", arms))
    assert (fault.key, fault.location) == ("--metric", "command line")
    assert "two and one are not evaluated on the same text" in fault.message
    assert "give --metric val/loss/code or val/bits_per_byte/code, whose text is the same" in fault.message
    check_arms(Question("compare", arms, metric="val/loss/code"))


def test_another_tokenizer_is_refused_in_nats_and_compared_in_bits_per_byte(tiny: Path) -> None:
    (fault,) = faults_before(make_question(tiny, "tokenizer=char"))
    assert (fault.key, fault.location) == ("--metric", "command line")
    assert "tokenizer=char and tiny have other tokens of the same text" in fault.message
    assert "--metric val/bits_per_byte" in fault.message
    check_arms(make_question(tiny, "tokenizer=char", metric="val/bits_per_byte"))


def test_another_tokenizer_without_a_metric_of_text_gets_the_evaluator_as_a_remedy(tiny: Path) -> None:
    only_loss = 'evaluator=["loss"]'
    base = make_question(tiny, only_loss).arms[1].experiment
    arms = (Arm("a", base), Arm("b", base.with_("tokenizer=char")))
    (fault,) = faults_before(Question("compare", arms))
    assert fault.key == "evaluator"
    assert "add the evaluator bits_per_byte to both" in fault.message


def test_an_edited_evaluator_is_refused(tiny: Path, tmp_path: Path) -> None:
    probe = tmp_path / "probe.py"
    overrides = ['components=["probe.py"]', 'evaluator=["loss", "probe"]']
    arms = []
    for text in (EVALUATOR, EVALUATOR.replace("1.0", "0.5")):
        probe.write_text(text)
        arms.append(Arm(f"arm{len(arms)}", Experiment.load(tiny, overrides, trust_code=True)))
    (fault,) = faults_before(Question("compare", tuple(arms), metric="val/probe"))
    assert (fault.key, fault.location) == ("evaluator", "command line")
    assert "arm1 and arm0 have the same data and other evaluators" in fault.message
    assert "val/probe" in fault.message
    assert "train both with the new one" in fault.message
    check_arms(Question("compare", tuple(arms), metric="val/loss"))  # what measures the loss is the same


def test_an_evaluator_that_a_sweep_varies_has_a_remedy_that_a_sweep_has() -> None:
    trials = [Instrument(f"trial {at}", None, {"val/probe": str(at)}, str) for at in (3, 0)]
    fault = measuring_fault("val/probe", *trials, option="sweep.metric")
    assert fault is not None
    assert fault.message.endswith(" differ; take it out of the space, or set another sweep.metric")


def test_all_reasons_are_reported_at_once(tiny: Path) -> None:
    question = make_question(tiny, "train.steps=30", "train.steps=31", metric="val/lost")
    assert [fault.key for fault in faults_before(question)] == ["--metric"] * 3 + ["train.steps"] * 2


def test_named_runs_are_measured_by_what_they_recorded(tiny: Path) -> None:
    question = make_question(tiny, "model.mlp=swiglu")
    edited = {**YARDSTICKS, "val/loss": "other"}
    runs = [make_arm_run(question.arms[0], 3, LOSS), make_arm_run(question.arms[1], 3, LOSS, yardsticks=edited)]
    named = [Arm(arm.label, arm.experiment, runs=(run,)) for arm, run in zip(question.arms, runs, strict=True)]
    (fault,) = faults_before(Question("compare", tuple(named)))
    assert (fault.key, fault.location) == ("evaluator", str(runs[1]))


# After the runs


def test_runs_that_compare_share_yardstick_and_budget(tiny: Path) -> None:
    question = make_question(tiny, "model.mlp=swiglu")
    common = check_measurements(question, measured(question, {}, {}, {}))
    assert (common.yardstick, common.budget, common.notes) == ("nats", "20 steps", ())


def test_another_yardstick_is_refused_once_for_each_arm(tiny: Path) -> None:
    question = make_question(tiny, "model.mlp=swiglu")
    runs = measured(question, {}, {}, {"yardsticks": {**YARDSTICKS, "val/loss": "other"}})
    runs += measured(question, {0: 4, 1: 4}, {}, {"yardsticks": {**YARDSTICKS, "val/loss": "other"}})
    (fault,) = faults_after(question, runs)
    assert (fault.key, fault.location) == ("evaluator", runs[1].run)
    assert "model.mlp=swiglu with seed 3 and tiny with seed 3" in fault.message


def test_an_unknown_yardstick_is_refused(tiny: Path) -> None:
    question = make_question(tiny, "model.mlp=swiglu")
    (fault,) = faults_after(question, measured(question, {}, {}, {"yardsticks": {}}))
    assert "model.mlp=swiglu with seed 3 is not recorded; train it again" in fault.message


def test_other_tokens_of_recorded_runs_are_refused_in_nats(tiny: Path) -> None:
    question = make_question(tiny, "tokenizer=char")
    data = DATA.model_copy(update={"tokenizer": "chars", "splits": {"val": "other-ids"}})
    other = {"data": data, "yardsticks": {**YARDSTICKS, "val/loss": "of characters"}}
    (fault,) = faults_after(question, measured(question, {}, {}, other))
    assert (fault.key, "--metric val/bits_per_byte" in fault.message) == ("--metric", True)


def test_a_run_that_a_callback_ended_is_refused_with_its_reason(tiny: Path) -> None:
    question = make_question(tiny, "model.mlp=swiglu")
    stopped = {"ended_by": "callback", "reason": "early stopping: no improvement"}
    runs = measured(question, {}, {}, {"status": stopped, "evaluations": {12: {"val/loss": 2.5}}})
    (fault,) = faults_after(question, runs)
    assert fault.key == "callback"
    for part in ("swiglu with seed 3", "12 of 20 steps", "early stopping: no improvement", "without that callback"):
        assert part in fault.message


def test_unequal_steps_are_refused_and_equal_tokens_are_not(tiny: Path) -> None:
    question = make_question(tiny, ["train.batch_tokens=160", "train.steps=10"])
    runs = measured(question, {}, {}, {"evaluations": {10: {"val/loss": 2.5}}})
    assert check_measurements(question, runs).budget == "1,600 tokens"
    longer = measured(question, {0: 4, 1: 4}, {}, {"evaluations": {11: {"val/loss": 2.5}}})
    (fault,) = faults_after(question, longer)
    assert "11 steps and 1,760 tokens" in fault.message
    assert "20 steps and 1,600 tokens" in fault.message


def test_equal_steps_of_other_batches_are_noted_with_their_tokens(tiny: Path) -> None:
    question = make_question(tiny, "train.batch_tokens=160")
    common = check_measurements(question, measured(question, {}, {}, {}))
    assert common.budget == "20 steps"
    assert common.notes == ("train.batch_tokens=160 has 100% more training tokens than tiny (3,200 against 1,600)",)


def test_seconds_are_a_budget_where_they_end_every_run(tiny: Path) -> None:
    base = Experiment.load(tiny, ["train.max_seconds=60", "schedule=constant"])
    question = Question("compare", (Arm("a", base), Arm("b", base.with_("model.mlp=relu2"))))
    timed = {"status": {"ended_by": "max_seconds"}}
    other_steps = {**timed, "evaluations": {14: {"val/loss": 2.5}}}
    common = check_measurements(question, measured(question, {}, timed, other_steps))
    assert common.budget == "60 s of training"
    (fault,) = faults_after(question, measured(question, {0: 4, 1: 4}, timed, {}))
    assert "b with seed 4 ended after its 20 steps" in fault.message


def test_seconds_that_ended_a_cooldown_are_an_equal_budget(tiny: Path) -> None:
    base = Experiment.load(tiny, ["train.max_seconds=60"])
    question = Question("compare", (Arm("a", base), Arm("b", base.with_("schedule=constant"))))
    timed = {"status": {"ended_by": "max_seconds"}}
    check_measurements(question, measured(question, {}, timed, timed))


def test_seconds_that_cut_off_a_schedule_of_batches_are_refused(tiny: Path) -> None:
    base = Experiment.load(tiny, ["train.max_seconds=60"])
    ramped = with_ramp(base, Linear(target="train.batch_tokens", warmup_steps=0))
    question = Question("compare", (Arm("a", ramped), Arm("b", base)))
    timed = {"status": {"ended_by": "max_seconds"}}
    (fault,) = faults_after(question, measured(question, {}, timed, timed))
    assert "a with seed 3 was ended by train.max_seconds before its schedule of train.batch_tokens" in fault.message


def test_other_limits_of_seconds_are_refused(tiny: Path) -> None:
    base = Experiment.load(tiny, ["train.max_seconds=60", "schedule=constant"])
    question = Question("compare", (Arm("a", base), Arm("b", base.with_("train.max_seconds=90"))))
    timed = {"status": {"ended_by": "max_seconds"}}
    (fault,) = faults_after(question, measured(question, {}, timed, timed))
    assert "b with seed 3 was ended by train.max_seconds = 90, and in a it is 60" in fault.message


def test_two_runs_of_a_seed_are_refused(tiny: Path, tmp_path: Path) -> None:
    question = make_question(tiny, "model.mlp=swiglu")
    runs = measured(question, {}, {}, {})
    again = make_arm_run(question.arms[1], 3, LOSS, folder=tmp_path / "again")
    runs.append(measure_run(again, "val/loss", 1))
    (fault,) = faults_after(question, runs)
    assert "model.mlp=swiglu with seed 3 has two runs" in fault.message
    assert runs[1].run in fault.message
    assert str(again) in fault.message


def test_runs_of_one_arm_with_other_configurations_are_refused(tiny: Path) -> None:
    question = make_question(tiny, "model.mlp=swiglu")
    runs = measured(question, {}, {}, {}) + measured(question, {0: 4, 1: 4}, {}, {"configuration": "changed"})
    (fault,) = faults_after(question, runs)
    assert "swiglu with seed 4 and model.mlp=swiglu with seed 3 differ by more than their seed" in fault.message
    assert f"nanogpt-kit runs diff {runs[1].run} {runs[3].run}" in fault.message


def test_a_text_that_changed_between_two_runs_is_refused(tiny: Path) -> None:
    question = make_question(tiny, "model.mlp=swiglu")
    edited = DATA.model_copy(update={"dataset": "edited"})
    (fault,) = faults_after(question, measured(question, {}, {}, {"data": edited}))
    assert (fault.key, "trained on different texts, though by the same options" in fault.message) == ("dataset", True)


def test_runs_that_failed_are_not_looked_at(tiny: Path) -> None:
    question = make_question(tiny, "model.mlp=swiglu")
    runs = measure_arms(question, [{3: 2.5, 4: 2.5}, {3: 2.5, 4: None}])
    assert check_measurements(question, runs).budget == "20 steps"
