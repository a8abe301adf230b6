"""Whether a pruner first looks while the learning rate rises: the warm-up, the look, the sentence and its remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.api import Schedule
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.sections import Sweep
from nanogpt_kit.sweep.space.space import Space
from nanogpt_kit.sweep.study.trial_steps import find_trial_steps
from nanogpt_kit.sweep.study.warmup import (
    TrialSteps,
    first_look,
    idle_pruner_reason,
    most_compared,
    warmup_length,
    warmup_warning,
)

BASE = (Path(__file__).parents[1] / "base.toml").read_text(encoding="utf-8")
RATES = '"optimizer.lr" = { float = [1e-4, 1e-2], log = true }\n'
TOKENS = 48_000  # of a trial: 100 steps of 480


def sweep_options(**options: Any) -> Sweep:
    return Sweep(space={"optimizer.lr": {"float": [1e-3, 1e-2]}}, **options)


def trial_steps(warmup: int, every: int = 10, **values: str) -> TrialSteps:
    return TrialSteps(values, 100, warmup, every, 480)


def schedule(use: str, **options: Any) -> Schedule:
    return Registry.installed().load(Schedule, use)(**options)


class Shape(Schedule):
    """Any function of the step."""

    shape: Callable[[int], float]

    def multiplier(self, step: int, total_steps: int) -> float:
        return self.shape(step)


# The warm-up


@pytest.mark.parametrize("use", ["constant", "cosine", "linear", "wsd", "inverse_sqrt"])
@pytest.mark.parametrize(("warmup", "total"), [(0, 1), (0, 300), (7, 300), (20, 100), (2_000, 600_000)])
def test_the_warm_up_of_a_shipped_schedule_is_the_one_that_it_was_given(use: str, warmup: int, total: int) -> None:
    assert warmup_length(schedule(use, warmup_steps=warmup), total) == warmup


def test_a_warm_up_as_long_as_the_run_lasts_to_its_end() -> None:
    assert warmup_length(schedule("cosine", warmup_steps=500), 100) == 99


@pytest.mark.parametrize(
    ("shape", "length"),
    [
        (lambda step: 1.0, 0),
        (lambda step: 0.0, 0),
        (lambda step: 1 / (1 + step), 0),
        (lambda step: (step % 10) / 9, 9),  # later periods reach the same peak
        (lambda step: 1 - abs(step - 70_001) / 70_001, 70_001),
        (lambda step: min(1.0, (step + 1) / 333), 332),
    ],
)
def test_the_warm_up_of_any_schedule_ends_where_its_largest_multiplier_comes_first(
    shape: Callable[[int], float], length: int
) -> None:
    assert warmup_length(Shape(shape=shape), 100_003) == length


# The first look


@pytest.mark.parametrize(
    ("options", "every", "step"),
    [
        ({"pruner": "none"}, 10, None),
        ({"pruner": "asha"}, 10, 20),  # 48,000 / 9 tokens are in step 12
        ({"pruner": "asha"}, 3, 12),
        ({"pruner": "hyperband", "reduction_factor": 2}, 10, 30),
        ({"pruner": "median", "min_tokens": 4_800}, 10, 10),
        ({"pruner": "median", "min_tokens": 4_801}, 10, 20),
        ({"pruner": "median", "trials": 5}, 10, None),  # it never ends the first five
        ({"pruner": "asha", "trials": 2}, 10, 20),
        ({"pruner": "asha", "min_tokens": 47_521}, 1, None),  # those of the last step
        ({"pruner": "asha", "min_tokens": 90_000}, 10, None),  # beyond the run
        ({"pruner": "patience", "patience": 8}, 10, None),
        ({"pruner": "asha"}, 100, None),  # only at the end
        ({"pruner": "patience", "patience": 3}, 10, 50),  # the fifth evaluation is the first that can show none
        ({"pruner": "patience", "patience": 3, "min_tokens": 40_000}, 10, 90),
    ],
)
def test_the_first_look_is_the_first_evaluation_at_which_the_pruner_may_end_a_trial(
    options: dict[str, Any], every: int, step: int | None
) -> None:
    chosen = sweep_options(**options)
    assert first_look(chosen, TOKENS, trial_steps(20, every), chosen.trials) == step
    assert bool(idle_pruner_reason(chosen, TOKENS, [trial_steps(20, every)], chosen.trials)) == (
        step is None and chosen.pruner != "none"
    )


@pytest.mark.parametrize(
    ("options", "every", "reason"),
    [
        ({"pruner": "asha"}, 100, "val/loss is first measured at the end; lower evaluate.every_steps"),
        ({"pruner": "median", "trials": 4}, 10, "the first 5 trials finish, and no more run; raise sweep.trials"),
        ({"pruner": "asha", "min_tokens": 90_000}, 10, "between 90,000 tokens and the end of a trial; lower sweep.min"),
        ({"pruner": "patience", "patience": 8}, 10, "10 evaluations and 5,333 tokens and the end of a trial; lower "),
    ],
)
def test_a_pruner_that_never_ends_a_trial_is_explained(options: dict[str, Any], every: int, reason: str) -> None:
    chosen = sweep_options(**options)
    assert reason in idle_pruner_reason(chosen, TOKENS, [trial_steps(0, every)], chosen.trials)


@pytest.mark.parametrize(("trials", "looks"), [(20, False), (24, True)])
def test_median_lets_the_first_trials_of_each_branch_finish(trials: int, looks: bool) -> None:
    options = sweep_options(pruner="median", trials=trials, allocate="equal")
    compared = most_compared(options, trials, 4)
    warning = warmup_warning(options, TOKENS, [trial_steps(20)], compared)
    assert bool(warning) == looks
    assert bool(idle_pruner_reason(options, TOKENS, [trial_steps(20)], compared)) != looks
    if looks:
        assert "once 5 of their branch are complete" in warning


def test_a_space_with_fewer_points_than_trials_has_as_many_trials_to_compare() -> None:
    for allocate, branches in {"sampler": 2, "equal": 2}.items():
        options = sweep_options(pruner="median", trials=20, allocate=allocate)
        assert most_compared(options, 4, branches) == 4


# The sentence


def test_a_look_at_the_end_of_the_warm_up_is_named_with_both_steps_and_the_remedy() -> None:
    options = sweep_options(pruner="median")
    told = warmup_warning(options, TOKENS, [trial_steps(20)], 20)
    assert "median may end trials, once 5 are complete, before their learning rate has reached its peak" in told
    assert "first look at step 20 (9,600 tokens), warm-up until step 20; " in told
    assert told.endswith("set sweep.min_tokens = 14400, or pruner = none")
    changed = options.model_copy(update={"min_tokens": 14_400})
    assert warmup_warning(changed, TOKENS, [trial_steps(20)], 20) == ""
    assert warmup_warning(options, TOKENS, [trial_steps(19)], 20) == ""


def test_of_several_warm_ups_each_that_is_too_long_is_named_and_the_remedy_is_enough_for_all() -> None:
    trials = [trial_steps(5), trial_steps(25, length="25"), trial_steps(60, length="60")]
    options = sweep_options(pruner="asha")
    told = warmup_warning(options, TOKENS, trials, 20)
    assert "once 5" not in told
    longest = "length = 60: first look at step 20 (9,600 tokens), warm-up until step 60"
    assert told.index(longest) < told.index("length = 25: first look at step 20 (9,600 tokens), warm-up until step 25")
    assert "set sweep.min_tokens = 33600" in told
    assert warmup_warning(options.model_copy(update={"min_tokens": 33_600}), TOKENS, trials, 20) == ""


def test_the_experiment_as_written_is_named_among_several_warm_ups() -> None:
    told = warmup_warning(sweep_options(pruner="asha"), TOKENS, [trial_steps(20), trial_steps(60, length="60")], 20)
    assert "length = 60: first look at step 20" in told
    assert "; as written: first look at step 20 (9,600 tokens), warm-up until step 20; " in told


def test_many_looks_are_counted() -> None:
    trials = [trial_steps(warmup) for warmup in range(90, 40, -10)]
    told = warmup_warning(sweep_options(pruner="asha"), TOKENS, trials, 20)
    assert told.count("first look") == 3
    assert "; and 2 more; " in told


def test_where_no_evaluation_is_left_after_the_warm_up_that_is_the_remedy() -> None:
    told = warmup_warning(sweep_options(pruner="asha"), TOKENS, [trial_steps(20), trial_steps(95)], 20)
    assert "min_tokens" not in told
    assert told.endswith("lower evaluate.every_steps or the warm-up, or pruner = none")


def test_the_looks_of_trials_whose_batch_grows_are_those_of_their_tokens() -> None:
    grown = TrialSteps({}, 100, 35, 10, 480, (480, 1_440, 2_880, 4_800, 9_600, 14_400, 19_200, 24_000, 28_800, 33_600))
    options = sweep_options(pruner="asha", min_tokens=4_000)
    assert first_look(options, 33_600, grown, 20) == 40
    late = warmup_warning(sweep_options(pruner="asha", min_tokens=1_440), 33_600, [grown], 20)
    assert "first look at step 20 (1,440 tokens), warm-up until step 35" in late
    assert "set sweep.min_tokens = 4800" in late
    assert first_look(sweep_options(pruner="asha", min_tokens=30_000), 33_600, grown, 20) is None


# Which steps the trials of a space have


def found_in(folder: Path, table: str, *overrides: str) -> list[TrialSteps]:
    (folder / "exp.toml").write_text(f"{BASE}[evaluate]\nevery_steps = 4\n[sweep]\n[sweep.space]\n{table}")
    return find_trial_steps(Space(Experiment.load(folder / "exp.toml", overrides)))


def test_where_nothing_changes_them_all_trials_have_those_of_the_experiment(tmp_path: Path) -> None:
    assert found_in(tmp_path, RATES) == [TrialSteps({}, 20, 5, 4, 480)]


def test_the_warm_ups_of_each_endpoint_and_of_each_branch_are_found(tmp_path: Path) -> None:
    table = RATES + (
        '"schedule.warmup_steps" = { int = [5, 12] }\n'
        '[sweep.space."optimizer.use".choice.adamw]\n'
        '[sweep.space."optimizer.use".choice.muon]\n"train.batch_tokens" = 960\n'
    )
    adamw = {"schedule.warmup_steps": "12", "optimizer.use": "adamw"}
    muon = {"optimizer.use": "muon", "train.batch_tokens": "960"}
    assert found_in(tmp_path, table) == [
        TrialSteps({}, 20, 5, 4, 480),
        TrialSteps({"schedule.warmup_steps": "5", **muon}, 20, 5, 4, 960),
        TrialSteps(adamw, 20, 12, 4, 480),
        TrialSteps({"schedule.warmup_steps": "12", **muon}, 20, 12, 4, 960),
    ]


def test_a_choice_of_schedules_is_measured_by_each_one(tmp_path: Path) -> None:
    table = RATES + (
        '[sweep.space."schedule.use".choice.cosine]\n'
        '[sweep.space."schedule.use".choice.linear]\n"schedule.warmup_steps" = 9\n'
    )
    written, other = found_in(tmp_path, table)
    assert (written.warmup_steps, other.warmup_steps) == (5, 9)
    assert other.values == {"schedule.use": "linear", "schedule.warmup_steps": "9"}
