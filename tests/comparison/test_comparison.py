"""Comparisons: verdicts, looks that are never lost, tries and luck, and a record that is read back."""

from __future__ import annotations

import errno
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.comparison.comparison import make_comparison
from nanogpt_kit.comparison.intervals import expected_luck, look_alpha
from nanogpt_kit.comparison.ledger import record_path
from nanogpt_kit.comparison.question import Arm, Question
from nanogpt_kit.comparison.record import Comparison, Measurement
from nanogpt_kit.core.errors import KitError, RunFailed
from tests.comparison.made_arms import make_question, measure_arms

# The example of the documentation: gelu and swiglu with three seeds
GELU = {1337: 2.512, 1338: 2.498, 1339: 2.5033}
SWIGLU = {1337: 2.548, 1338: 2.608, 1339: 2.4993}


@pytest.fixture
def question(tiny: Path) -> Question:
    return make_question(tiny, "model.mlp=swiglu", text="does it help?")


def judge(question: Question, measurements: list[Measurement], *seeds: int) -> Comparison:
    chosen = [one for one in measurements if not seeds or one.seed in seeds]
    return make_comparison(question, chosen, "nanogpt-kit compare tiny model.mlp=swiglu")


def test_three_pairs_of_gelu_and_swiglu_are_undecided_and_16_more_seeds_would_decide(question: Question) -> None:
    comparison = judge(question, measure_arms(question, [GELU, SWIGLU]))
    (result,) = comparison.results
    assert (result.verdict, result.more_seeds, result.wins, result.level) == ("undecided", 16, 1, 0.95)
    assert result.difference == pytest.approx(0.04733, abs=1e-5)
    assert (result.low, result.high) == (pytest.approx(-0.0963, abs=1e-4), pytest.approx(0.1910, abs=1e-4))
    assert (comparison.budget, comparison.yardstick, comparison.text) == ("20 steps", "nats", "does it help?")


def test_the_record_is_read_back_as_it_was_made(question: Question) -> None:
    comparison = judge(question, measure_arms(question, [GELU, {**SWIGLU, 1339: None}]))
    assert record_path(comparison) == question.folder() / "comparison.json"
    assert Comparison.read(record_path(comparison)) == comparison
    assert comparison.measurements[-1].cause == "not_finite"


def test_a_folder_that_is_not_utf_8_is_recorded_and_read_back(question: Question) -> None:
    runs = measure_arms(question, [GELU, SWIGLU])
    odd = [one.model_copy(update={"reason": "of \udcff"}) for one in runs]
    comparison = judge(question, odd)
    assert Comparison.read(record_path(comparison)) == comparison


def test_an_arm_whose_run_failed_cannot_win(tiny: Path) -> None:
    question = make_question(tiny, "model.mlp=swiglu")
    better = {seed: value - 0.5 + 0.01 * (seed % 2) for seed, value in GELU.items()}
    assert judge(question, measure_arms(question, [GELU, better])).results[0].verdict == "better"
    other = make_question(tiny, "model.mlp=relu2")
    (result,) = judge(other, measure_arms(other, [{**GELU, 1: 2.5}, {**better, 1: None}], again=True)).results
    assert (result.verdict, result.seeds) == ("undecided", tuple(GELU))
    assert "1" in result.reason


def test_a_run_that_was_interrupted_is_only_missing(question: Question) -> None:
    better = {seed: value - 0.5 + 0.01 * (seed % 2) for seed, value in GELU.items()}
    runs = measure_arms(question, [{**GELU, 1: 2.5}, {**better, 1: None}])
    runs[-1] = runs[-1].model_copy(update={"state": "interrupted"})
    assert judge(question, runs).results[0].verdict == "better"


def test_time_is_that_of_own_runs_and_that_of_earlier_ones(question: Question) -> None:
    runs = measure_arms(question, [GELU, SWIGLU])
    runs = [one.model_copy(update={"is_reused": one.arm == 0}) for one in runs]
    comparison = judge(question, runs[:5])
    assert (comparison.seconds, comparison.seconds_reused) == (pytest.approx(4.0), pytest.approx(6.0))


# Looks


def test_the_same_values_again_are_the_same_look_and_more_seeds_are_a_later_one(question: Question) -> None:
    runs = measure_arms(question, [{**GELU, 1: 2.5, 2: 2.51}, {**SWIGLU, 1: 2.53, 2: 2.56}])
    first = judge(question, runs, *GELU)
    assert judge(question, runs, *GELU).looks == first.looks
    second = judge(question, runs)
    assert [look.seeds for look in second.looks] == [tuple(GELU), (1, 2, *GELU)]
    assert (first.results[0].level, second.results[0].level) == (1 - look_alpha(1), 1 - look_alpha(2))
    assert (second.started, first.started <= second.time) == (first.started, True)
    again = judge(question, runs, *GELU)
    assert (again.looks, again.results[0].level) == (second.looks, 1 - look_alpha(1))
    assert repr(again).endswith(f"seeds {sorted(GELU)}>"), "those of this judgement, not of the newest look"


def test_other_values_of_the_same_seeds_are_a_later_look(question: Question) -> None:
    runs = measure_arms(question, [GELU, SWIGLU])
    judge(question, runs)
    runs[0] = runs[0].model_copy(update={"value": 2.5})
    again = judge(question, runs)
    assert (len(again.looks), again.results[0].level) == (2, 1 - look_alpha(2))


def ask(everything: Question, runs: Sequence[Measurement], arms: str, *seeds: int, kind: Any = "compare") -> float:
    """The level of the interval of the last of these arms, in a question of their own."""
    indices = [int(arm) for arm in arms]
    question = replace(everything, kind=kind, arms=tuple(everything.arms[index] for index in indices))
    chosen = [one.model_copy(update={"arm": indices.index(one.arm)}) for one in runs if one.arm in indices]
    return judge(question, chosen, *seeds).results[-1].level


def test_a_pair_that_another_question_has_seen_with_other_seeds_is_looked_at_again(tiny: Path) -> None:
    everything = make_question(tiny, "model.mlp=swiglu", "model.mlp=relu2", "model.norm=rmsnorm")
    more = {1: 2.5, 2: 2.51}
    runs = measure_arms(
        everything, [{seed: value + arm / 9 for seed, value in {**GELU, **more}.items()} for arm in range(4)]
    )
    assert ask(everything, runs, "01", *GELU) == 1 - look_alpha(1)
    assert ask(everything, runs, "01", *GELU, kind="ablate") == 1 - look_alpha(1)  # the same seeds
    assert ask(everything, runs, "01", kind="ablate") == 1 - look_alpha(2)
    assert ask(everything, runs, "10") == 1 - look_alpha(2)  # which arm is the base does not matter
    assert ask(everything, runs, "021") >= 1 - look_alpha(2)
    assert ask(everything, runs, "03") == 1 - look_alpha(1)  # a pair that was not looked at
    assert ask(everything, runs, "01", *GELU) == 1 - look_alpha(1)  # what was shown before stays


def test_a_look_at_one_pair_costs_nothing(question: Question) -> None:
    runs = measure_arms(question, [GELU, SWIGLU])
    assert judge(question, runs, 1337).results[0].verdict == "undecided"
    later = judge(question, runs)
    assert (len(later.looks), later.results[0].level) == (2, 1 - look_alpha(1))


def test_processes_that_judge_at_once_lose_no_look(question: Question) -> None:
    seeds = range(2, 8)
    values = [{seed: 2.5 + 0.01 * seed for seed in seeds}, {seed: 2.5 + 0.02 * seed for seed in seeds}]
    runs = measure_arms(question, values)
    with ThreadPoolExecutor(4) as pool:  # locks of two threads exclude each other as those of two processes do
        made = list(pool.map(lambda last: judge(question, runs, *range(2, last)), range(4, 8)))
    recorded = Comparison.read(record_path(made[0]))
    assert {look.seeds for look in recorded.looks} == {tuple(range(2, last)) for last in range(4, 8)}
    assert {round(one.results[0].level, 9) for one in made} == {round(1 - look_alpha(n), 9) for n in range(1, 5)}


def test_what_a_kill_left_of_a_record_is_removed(question: Question) -> None:
    question.folder().mkdir(parents=True)
    left, other = (
        question.folder() / f".{name}.0123456789abcdef.tmp" for name in ("comparison.json", "test-split.json")
    )
    for path in (left, other):
        path.write_text("{")
    judge(question, measure_arms(question, [GELU, SWIGLU]))
    assert (left.exists(), other.exists()) == (False, True)


def test_a_damaged_record_is_refused_before_anything_is_judged(question: Question) -> None:
    runs = measure_arms(question, [GELU, SWIGLU])
    path = record_path(judge(question, runs))
    path.write_text(path.read_text()[:-5])
    with pytest.raises(KitError) as caught:
        judge(question, runs)
    (fault,) = caught.value.faults
    assert str(path.parent) in fault.message
    assert "remove the file" in fault.message


# Tries and luck


def test_tries_are_distinct_contenders_of_the_whole_ledger(tiny: Path) -> None:
    changes = ["model.mlp=swiglu", "model.mlp=relu2", "optimizer.lr=1e-3"]
    shift = {seed: 0.001 * (seed % 3) for seed in GELU}
    tried = []
    for change in [*changes, changes[0]]:
        question = make_question(tiny, change)
        runs = measure_arms(question, [GELU, {seed: value + shift[seed] for seed, value in GELU.items()}], again=True)
        comparison = judge(question, runs)
        tried.append(comparison.tries)
    assert tried == [1, 2, 3, 3]
    both = make_question(tiny, "model.mlp=relu2", "model.norm=rmsnorm", kind="ablate")
    assert judge(both, measure_arms(both, [GELU, SWIGLU, SWIGLU], again=True)).tries == 4
    sd = math.sqrt(sum((shift[seed] - 0.001) ** 2 for seed in GELU) / 2)
    assert comparison.luck == pytest.approx(expected_luck(3, sd / math.sqrt(3)))


def test_luck_has_the_noise_of_the_best_contender(tiny: Path) -> None:
    question = make_question(tiny, "model.mlp=swiglu", "model.mlp=relu2")
    better = {seed: value - 0.01 - 0.001 * (seed % 3) for seed, value in GELU.items()}
    diverging = {**better, 1338: 4.5}
    comparison = judge(question, measure_arms(question, [GELU, diverging, better]))
    assert comparison.luck == pytest.approx(expected_luck(2, 0.001 / math.sqrt(3)))


@pytest.mark.parametrize("other", [{"metric": "val/bits_per_byte"}, {"direction": "maximize"}])
def test_tries_of_another_metric_do_not_count(tiny: Path, other: Mapping[str, Any]) -> None:
    first, second = make_question(tiny, "model.mlp=swiglu"), make_question(tiny, "model.mlp=relu2", **other)
    judge(first, measure_arms(first, [GELU, SWIGLU]))
    assert judge(second, measure_arms(second, [GELU, SWIGLU], again=True)).tries == 1


def test_tries_of_another_yardstick_do_not_count(tiny: Path) -> None:
    first, second = make_question(tiny, "model.mlp=swiglu"), make_question(tiny, "model.mlp=relu2")
    judge(first, measure_arms(first, [GELU, SWIGLU]))
    edited = {"val/loss": "edited"}
    assert judge(second, measure_arms(second, [GELU, SWIGLU], again=True, yardsticks=edited)).tries == 1


def test_the_base_itself_is_no_try(tiny: Path) -> None:
    base = make_question(tiny).base
    question = Question("compare", (base, Arm("again", base.experiment)))
    runs = measure_arms(make_question(tiny), [GELU])
    comparison = judge(question, [*runs, *(one.model_copy(update={"arm": 1}) for one in runs)])
    (result,) = comparison.results
    assert (result.verdict, result.difference, result.low, result.high) == ("undecided", 0.0, 0.0, 0.0)
    assert (comparison.tries, comparison.luck) == (0, None)


# Several arms


def test_a_full_factorial_has_effects(tiny: Path) -> None:
    changes = ["model.mlp=swiglu", "model.norm=rmsnorm", ["model.mlp=swiglu", "model.norm=rmsnorm"]]
    question = make_question(tiny, *changes, kind="ablate")
    levels = [("gelu", "layernorm"), ("swiglu", "layernorm"), ("gelu", "rmsnorm"), ("swiglu", "rmsnorm")]
    arms = tuple(
        replace(arm, levels={"mlp": mlp, "norm": norm}) for arm, (mlp, norm) in zip(question.arms, levels, strict=True)
    )
    question = replace(question, arms=arms, notes=("from the plan",))
    values = [GELU, *({seed: value + more for seed, value in GELU.items()} for more in (0.25, 0.5, 1.75))]
    comparison = judge(question, measure_arms(question, values))
    found = {(effect.factors, effect.levels): effect.difference for effect in comparison.effects}
    assert found == {
        (("mlp",), ("swiglu",)): pytest.approx((0.25 + 1.25) / 2),
        (("norm",), ("rmsnorm",)): pytest.approx((0.5 + 1.5) / 2),
        (("mlp", "norm"), ("swiglu", "rmsnorm")): pytest.approx(1.0),
    }
    assert comparison.notes[0] == "from the plan"
    assert Comparison.read(record_path(comparison)) == comparison


def test_a_measurement_of_noise_has_no_contender(tiny: Path) -> None:
    question = make_question(tiny, kind="noise")
    comparison = judge(question, measure_arms(question, [GELU]))
    assert (comparison.results, comparison.tries, comparison.budget) == ((), 0, "20 steps")


def test_a_record_that_cannot_be_written_names_its_file(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(comparison: Comparison, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Comparison, "write", write)
    question = make_question(tiny, "model.mlp=swiglu")
    message = r"comparison.json cannot be written: No space left on device; all runs are kept"
    with pytest.raises(RunFailed, match=message):
        judge(question, measure_arms(question, [GELU, SWIGLU]))


def test_a_measurement_of_noise_judges_nothing_and_is_no_try(tiny: Path) -> None:
    noise = make_question(tiny, "model.mlp=swiglu", kind="noise")
    comparison = judge(noise, measure_arms(noise, [GELU, SWIGLU]))
    assert (comparison.results, comparison.tries) == ((), 0)
    other = make_question(tiny, "model.n_head=4")
    assert judge(other, measure_arms(other, [GELU, SWIGLU], again=True)).tries == 1
