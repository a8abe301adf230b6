"""The noise of an experiment for people."""

from __future__ import annotations

from pathlib import Path

from nanogpt_kit.comparison.comparison import make_comparison
from nanogpt_kit.comparison.ledger_rows import ledger_rows
from nanogpt_kit.comparison.noise import measure_noise
from nanogpt_kit.comparison.noise_text import noise_lines, noise_of
from tests.comparison.made_arms import make_question, measure_arms

VALUES = {3: 4.5, 5: 4.75, 7: 4.25}


def test_the_spread_has_its_interval_and_each_number_of_seeds_its_smallest_difference(tiny: Path) -> None:
    question = make_question(tiny, kind="noise")
    comparison = make_comparison(question, measure_arms(question, [VALUES]), "")
    lines = noise_lines(comparison, noise_of(comparison))
    assert lines[0] == "tiny: val/loss 4.5000 on average over 3 seeds"
    assert lines[1].startswith("standard deviation over seeds: 0.2500 (95% interval 0.1302 to 1.5712)")
    assert [line.split()[0] for line in lines if line[:1].isdigit()] == ["3", "5", "10", "20"]
    assert not any(line.endswith("unpaired  paired") for line in lines)
    assert lines[-1].endswith("name a contender to measure it")


def test_a_contender_adds_the_spread_of_the_differences(tiny: Path) -> None:
    question = make_question(tiny, "model.mlp=swiglu", kind="noise")
    other = {seed: value + seed / 1000 for seed, value in VALUES.items()}
    comparison = make_comparison(question, measure_arms(question, [VALUES, other]), "")
    lines = noise_lines(comparison, noise_of(comparison))
    assert "standard deviation of the differences of model.mlp=swiglu by seed: 0.0020 over 3 seeds" in lines
    assert any(line.endswith("unpaired  paired") for line in lines)
    assert comparison.results == (), "a verdict would be a look at the question"
    [row] = ledger_rows([comparison])
    assert (row.change, row.verdict, row.difference) == ("model.mlp=swiglu", "", "")


def test_values_or_differences_without_a_spread_have_no_smallest_difference(tiny: Path) -> None:
    question = make_question(tiny, "model.mlp=swiglu", kind="noise")
    comparison = make_comparison(question, measure_arms(question, [VALUES, VALUES]), "")
    lines = noise_lines(comparison, noise_of(comparison))
    assert "the difference is the same for every seed, so its spread is unknown" in lines
    assert not any(line.endswith("paired") and "unpaired  paired" in line for line in lines)
    noise = measure_noise({3: 0.25, 5: 0.25, 7: 0.25})
    assert (noise.sd, noise.sd_low, noise.sd_high, noise.effects) == (0.0, None, None, ())
    assert noise_lines(comparison, noise) == ["tiny: the value is the same for every seed, so its spread is unknown"]


def test_one_seed_has_no_spread(tiny: Path) -> None:
    question = make_question(tiny, kind="noise")
    comparison = make_comparison(question, measure_arms(question, [{3: 4.5}]), "")
    assert noise_lines(comparison, noise_of(comparison)) == [
        "tiny: the spread of fewer than two values is unknown",
    ]
