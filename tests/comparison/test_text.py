"""A comparison in words and tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.comparison.comparison import make_comparison
from nanogpt_kit.comparison.ledger import record_path
from nanogpt_kit.comparison.numbers import decimal_text, level_text, short_count
from nanogpt_kit.comparison.question import Arm, Question
from nanogpt_kit.comparison.record import Comparison, Effect, Result
from nanogpt_kit.comparison.text import comparison_json, comparison_lines, exit_code
from nanogpt_kit.system.terminal import wrap_lines
from tests.comparison.made_arms import make_question, measure_arms
from tests.comparison.made_records import made, make_record, make_result


def last_line(*results: Result, **details: Any) -> str:
    return comparison_lines(make_record(*results, **details))[-1]


# The last line


def test_an_undecided_comparison_of_two_is_one_sentence(tiny: Path) -> None:
    arms = make_question(tiny, "model.mlp=swiglu").arms
    labelled = (Arm(label, arm.experiment) for label, arm in zip(("gelu", "swiglu"), arms, strict=True))
    question = Question("compare", tuple(labelled))
    gelu, swiglu = {7: 2.512, 8: 2.498, 9: 2.5033}, {7: 2.548, 8: 2.608, 9: 2.4993}
    lines = comparison_lines(make_comparison(question, measure_arms(question, [gelu, swiglu]), ""))
    assert lines[-1] == (
        "swiglu against gelu: val/loss higher by 0.0473 (95% interval -0.0963 to 0.1910) over 3 pairs: undecided; "
        "16 more seeds would decide it if mean and spread of the differences stay as they are"
    )
    assert lines[:10] == [
        "val/loss at the last evaluation; lower is better",
        "",
        "seed           mean      sd        7        8        9",
        "gelu         2.5044  0.0071   2.5120   2.4980   2.5033",
        "swiglu       2.5518  0.0544   2.5480   2.6080   2.4993",
        "difference  +0.0473  0.0578  +0.0360  +0.1100  -0.0040",
        "",
        "swiglu is better in 1 of 3 pairs",
        "",
        "cost    tokens/s        seconds         memory        parameters",
    ]
    assert lines[10:15] == [
        "gelu         920            2.0        120 MiB              3.0k",
        "swiglu       920 x1.00      2.0 x1.00  120 MiB x1.00        3.0k x1.00",
        "",
        "budget of each run: 20 steps",
        "runs: 6 runs trained in 12 s",
    ]


BELOW, ABOVE = {"difference": -0.25, "low": -0.5, "high": -0.125}, {"difference": 0.25, "low": 0.125, "high": 0.5}
IF_THEY_STAY = "would decide it if mean and spread of the differences stay as they are"
HIGHER = "val/loss higher by 0.2500"
WITHOUT_INTERVAL = {"low": None, "high": None}


@pytest.mark.parametrize(
    ("direction", "details", "expected"),
    [
        ("minimize", BELOW, "lower by 0.2500 (95% interval -0.5000 to -0.1250) over 3 pairs: better"),
        ("maximize", ABOVE, "higher by 0.2500 (95% interval 0.1250 to 0.5000) over 3 pairs: better"),
        ("minimize", ABOVE, "higher by 0.2500 (95% interval 0.1250 to 0.5000) over 3 pairs: worse"),
        ("maximize", BELOW, "lower by 0.2500 (95% interval -0.5000 to -0.1250) over 3 pairs: worse"),
    ],
)
def test_the_difference_is_lower_or_higher_and_the_verdict_alone_says_better_or_worse(
    direction: str, details: dict[str, Any], expected: str
) -> None:
    result = make_result(**details, verdict=expected.rpartition(" ")[2])
    line = last_line(result, direction=direction, metric="val/accuracy")
    assert line == f"swiglu against gelu: val/accuracy {expected}"


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        (
            {"difference": 0.0, "difference_sd": 0.0, "low": 0.0, "high": 0.0},
            "no difference in val/loss (95% interval 0.0000 to 0.0000) over 3 pairs: undecided",
        ),
        (
            {"seeds": (1,), "reason": "one pair has no spread", **WITHOUT_INTERVAL},
            f"{HIGHER} over 1 pair: undecided; one pair has no spread",
        ),
        (
            {"difference": None, "seeds": (), "reason": "no seed has a value", **WITHOUT_INTERVAL},
            "undecided; no seed has a value",
        ),
        (
            {"more_seeds": 1, "level": 0.9975},
            f"{HIGHER} (99.75% interval -0.5000 to 1.0000) over 3 pairs: undecided; 1 more seed {IF_THEY_STAY}",
        ),
    ],
)
def test_an_undecided_verdict_names_what_is_missing(details: dict[str, Any], expected: str) -> None:
    assert last_line(make_result(**details)) == f"swiglu against gelu: {expected}"


def test_several_contenders_are_ranked_and_counted_by_verdict() -> None:
    results = [
        make_result(1, 0.5, verdict="worse", wins=0),
        make_result(2, -0.25, verdict="better", level=0.975, wins=3),
        make_result(3, 0.0, more_seeds=12, wins=2),
        make_result(4, None, seeds=(), low=None, high=None, reason="it failed with seed 1"),
    ]
    labels = ("base", "a", "b", "c", "d")
    lines = comparison_lines(make_record(*results, labels=labels))
    start = lines.index("against base  difference           interval          verdict  level  wins")
    assert lines[start + 1 : start + 7] == [
        "b                -0.2500  -0.5000 to 1.0000           better  97.5%   3/3",
        "c                 0.0000  -0.5000 to 1.0000  undecided (+12)    95%   2/3",
        "a                +0.5000  -0.5000 to 1.0000            worse    95%   0/3",
        "d                                                  undecided          0/0",
        f"(+N): N more seeds {IF_THEY_STAY}",
        "d: it failed with seed 1",
    ]
    assert lines[-1] == ("against base: 1 is better (b by 0.2500); 2 are undecided (c and d); 1 is worse (a by 0.5000)")


def test_with_direction_maximize_the_largest_difference_is_first() -> None:
    results = [make_result(1, -0.5), make_result(2, 0.5)]
    lines = comparison_lines(make_record(*results, labels=("base", "a", "b"), direction="maximize"))
    assert "higher is better" in lines[0]
    assert [line.split()[0] for line in lines if line.startswith(("a ", "b "))][-2:] == ["b", "a"]


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        (["better"], 0),
        (["undecided"], 3),
        (["worse"], 4),
        (["worse", "better"], 0),
        (["worse", "undecided"], 3),
        ([], 0),
    ],
)
def test_the_exit_code_is_that_of_the_best_verdict(verdicts: list[Any], code: int) -> None:
    results = [make_result(arm, verdict=verdict) for arm, verdict in enumerate(verdicts, start=1)]
    assert exit_code(make_record(*results, labels=("base", "a", "b", "c", "d"))) == code


# Tables


def test_every_table_fits_80_columns_whatever_the_labels(tiny: Path) -> None:
    changes = ["model.mlp=swiglu", ["model.position=rope", "model.norm=rmsnorm", "optimizer.lr=1e-4"]]
    question = make_question(tiny, *changes)
    seeds = range(1000, 1012)
    values: list[dict[int, float | None]] = [
        {seed: 2.5 + 0.001 * (seed * 7 % 5 + arm) for seed in seeds} for arm in range(3)
    ]
    values[2][1003] = None
    comparison = make_comparison(question, measure_arms(question, values), "")
    lines = comparison_lines(comparison)
    assert "C  model.position=rope model.norm=rmsnorm optimizer.lr=1e-4" in lines
    tables = [line for line in lines if line.startswith(("A  ", "B  ", "C  ", "seed", "against A", "cost"))]
    assert max(map(len, tables)) <= 80
    assert max(map(len, wrap_lines("\n".join(lines), 80).split("\n"))) <= 80
    cells = " ".join(line for line in lines if line.startswith("C ")).split()
    assert cells.count("failed") == 1
    assert {str(seed) for seed in seeds} <= {word for line in lines if line.startswith("seed") for word in line.split()}


def test_equal_labels_are_told_apart_by_letters() -> None:
    lines = comparison_lines(make_record(make_result(), labels=("quickstart", "quickstart")))
    assert lines[1:3] == ["A  quickstart (base)", "B  quickstart"]


def test_values_have_as_many_decimals_as_their_spread_gives_meaning_to() -> None:
    measurements = (made(0, 1, 2.5), made(1, 1, 2.50001))
    result = make_result(difference=0.00001, difference_sd=0.000012, low=-0.00002, high=0.00004)
    lines = comparison_lines(make_record(result, measurements=measurements))
    assert "val/loss higher by 0.000010 (95% interval -0.000020 to 0.000040)" in lines[-1]


def test_a_metric_of_tiny_values_is_not_shown_as_0() -> None:
    result = make_result(difference=-3e-12, difference_sd=1e-12, low=-5e-12, high=-1e-12, verdict="better")
    assert "lower by 3e-12 (95% interval -5e-12 to -1e-12)" in last_line(result)


def test_costs_are_ratios_to_the_base() -> None:
    cost = {"tokens_per_second": 2e6, "memory_bytes": 3 * 2**30, "parameters": 124_400_000, "seconds": 1234.5}
    half = {"tokens_per_second": 1e6, "memory_bytes": 6 * 2**30, "parameters": 62_200_000, "seconds": 2469.0}
    measurements = (made(0, 1, 2.5, **cost), made(1, 1, 2.5, **half), made(1, 2, None, seconds=9.0))
    lines = comparison_lines(make_record(make_result(), measurements=measurements))
    start = next(index for index, line in enumerate(lines) if line.startswith("cost"))
    assert lines[start + 1].split() == ["gelu", "2.0M", "1,234", "3,072", "MiB", "124M"]
    assert lines[start + 2].split() == [
        "swiglu",
        "1.0M",
        "x0.50",
        "2,469",
        "x2.00",
        "6,144",
        "MiB",
        "x2.00",
        "62.2M",
        "x0.50",
    ]


# Remarks


def test_failures_reuse_notes_looks_and_luck_have_a_line_each() -> None:
    failed = made(1, 2, None, reason="the loss is nan\x1b[31m", cause="not_finite")
    record = make_record(
        make_result(),
        measurements=(made(0, 1, 2.5, is_reused=True), made(1, 1, 2.5), failed),
        budget="1,500 steps",
        seconds=35.0,
        seconds_reused=120.0,
        notes=("the runs differ in torch: 2.12 (gelu), 2.13 (swiglu)",),
        looks=({"seeds": (1,), "time": 0.0}, {"seeds": (1, 2), "time": 1.0}),
        tries=7,
        luck=0.0123,
        text="why?",
    )
    lines = comparison_lines(record)
    assert lines[0] == "why?"
    assert "budget of each run: 1,500 steps" in lines
    assert "runs: 2 runs trained in 35 s and 1 finished run reused (2 min)" in lines
    assert "failed: swiglu with seed 2: the loss is nan\\u001b[31m" in lines
    assert "note: the runs differ in torch: 2.12 (gelu), 2.13 (swiglu)" in lines
    assert "looks: 2 at this question, and each later one needs a clearer difference" in lines
    assert (
        "7 contenders were compared with gelu so far; were all equal to it, the best of them would look better by "
        "about 0.0123 by luck alone"
    ) in lines


def test_a_single_try_has_no_luck() -> None:
    assert not any("luck" in line for line in comparison_lines(make_record(make_result(), tries=1, luck=0.0)))


def test_effects_of_a_factorial_are_sentences() -> None:
    effect = {"seeds": (1, 2, 3), "difference": 0.25, "low": -0.5, "high": 1.0}
    effects = (
        Effect(factors=("model.mlp",), levels=("swiglu",), **effect),
        Effect(factors=("model.mlp", "model.norm"), levels=("swiglu", "rmsnorm"), verdict="worse", **effect),
    )
    lines = comparison_lines(make_record(make_result(), effects=effects))
    ending = "val/loss higher by 0.2500 (95% interval -0.5000 to 1.0000) over 3 seeds:"
    assert f"  model.mlp=swiglu: {ending} undecided" in lines
    assert f"  model.mlp=swiglu with model.norm=rmsnorm: {ending} worse" in lines


def test_a_measurement_of_noise_has_no_verdict() -> None:
    record = make_record(labels=("gelu",), measurements=(made(0, 1, 2.5), made(0, 2, 2.75)))
    lines = comparison_lines(record)
    assert lines[3] == "gelu  2.6250  0.1768  2.5000  2.7500"
    assert lines[-1] == "gelu: no contender, so there is no verdict"


def test_json_is_the_record_with_its_path() -> None:
    record = make_record(make_result())
    values = comparison_json(record)
    assert values.pop("path") == str(record_path(record))
    assert Comparison.model_validate(values) == record


# Numbers


def test_numbers_have_few_digits() -> None:
    counts = {950.0: "950", 12_345.0: "12.3k", 999_960.0: "1.0M", 124e6: "124M", 3.2e12: "3.2T"}
    assert {count: short_count(count) for count in counts} == counts
    levels = {0.95: "95%", 0.975: "97.5%", 1 - 0.05 / 3: "98.33%", 0.9975: "99.75%", 0.99999: "99.999%"}
    assert {level: level_text(level) for level in levels} == levels
    values = {0.001: "0.00", -0.001: "0.00", 1.0: "+1.00", -2e6: "-2e+06"}
    assert {value: decimal_text(value, 2, sign=True) for value in values} == values
