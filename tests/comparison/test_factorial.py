"""Effects of a full factorial whose values are known."""

from __future__ import annotations

import itertools
import random

import pytest
from scipy import stats

from nanogpt_kit.comparison.factorial import judge_effects
from nanogpt_kit.comparison.record import Effect

FACTORS = [("model.mlp", ("gelu", "relu2", "swiglu")), ("optimizer", ("adamw", "muon"))]
THREE = [*FACTORS, ("model.position", ("learned", "rope"))]
MLP, OPTIMIZER, TOGETHER = (0.0, -0.10, 0.30), (0.0, -0.20), {(1, 1): 0.08}  # (2, 1): no interaction
SEEDS = (5, 6, 7, 8)


def planted(noise: float = 1e-4) -> dict[tuple[int, ...], dict[int, float]]:
    source = random.Random(1)
    return {
        (mlp, optimizer): {
            seed: 3
            + 0.1 * seed
            + MLP[mlp]
            + OPTIMIZER[optimizer]
            + TOGETHER.get((mlp, optimizer), 0)
            + source.gauss(0, noise)
            for seed in SEEDS
        }
        for mlp, optimizer in itertools.product(range(3), range(2))
    }


def by_name(effects: list[Effect]) -> dict[tuple[str, ...], Effect]:
    return {effect.levels: effect for effect in effects}


def test_planted_effects_are_recovered_on_average_over_the_other_factor() -> None:
    found = by_name(judge_effects(FACTORS, planted(), "minimize"))
    expected = {
        ("relu2",): (-0.10 + 0.08 / 2, "better"),
        ("swiglu",): (0.30, "worse"),
        ("muon",): (-0.20 + 0.08 / 3, "better"),
        ("relu2", "muon"): (0.08, "worse"),
        ("swiglu", "muon"): (0.0, "undecided"),
    }
    assert list(found) == list(expected)
    for levels, (size, verdict) in expected.items():
        assert found[levels].difference == pytest.approx(size, abs=5e-4), levels
        assert found[levels].verdict == verdict, levels
        assert found[levels].seeds == SEEDS
    assert found["relu2", "muon"].factors == ("model.mlp", "optimizer")


def test_each_effect_is_a_paired_test_of_a_contrast_of_each_seed() -> None:
    cells = planted(0.05)
    (swiglu, muon, both) = (by_name(judge_effects(FACTORS, cells, "minimize"))[key] for key in KEYS)
    sums = {
        key: [sum(cells[cell][seed] for cell in chosen) for seed in SEEDS]
        for key, chosen in {
            "swiglu": [(2, 0), (2, 1)],
            "gelu": [(0, 0), (0, 1)],
            "muon": [(0, 1), (1, 1), (2, 1)],
            "adamw": [(0, 0), (1, 0), (2, 0)],
            "cross": [(2, 1), (0, 0)],
            "other": [(0, 1), (2, 0)],
        }.items()
    }
    for effect, plus, minus in ((swiglu, "swiglu", "gelu"), (muon, "muon", "adamw"), (both, "cross", "other")):
        assert effect.p_value == pytest.approx(stats.ttest_rel(sums[plus], sums[minus]).pvalue, rel=1e-6)


KEYS: list[tuple[str, ...]] = [("swiglu",), ("muon",), ("swiglu", "muon")]


def test_of_three_factors_all_effects_and_pairs_are_tested_and_none_of_three() -> None:
    source = random.Random(2)
    cells = {
        cell: {seed: 3 + 0.5 * (cell == (2, 1, 1)) + source.gauss(0, 0.01) for seed in SEEDS}
        for cell in itertools.product(range(3), range(2), range(2))
    }
    effects = judge_effects(THREE, cells, "minimize")
    assert [len(effect.factors) for effect in effects] == [1] * 4 + [2] * 5
    found = by_name(effects)
    assert found["swiglu",].difference == pytest.approx(0.5 / 4, abs=0.02)
    assert found["muon", "rope"].difference == pytest.approx(0.5 / 3, abs=0.02)
    assert min(1 - effect.level for effect in effects) == pytest.approx(0.05 / 9)


def test_of_factors_without_any_effect_one_is_decided_in_at_most_5_5_percent() -> None:
    source, count, decided = random.Random(3), 1_500, 0
    for _ in range(count):
        cells = {cell: {seed: source.gauss(0, 1) for seed in SEEDS} for cell in planted()}
        decided += any(effect.verdict != "undecided" for effect in judge_effects(FACTORS, cells, "minimize"))
    assert 0.01 <= decided / count <= 0.055


def test_a_seed_that_a_cell_lacks_is_left_out_of_all_effects() -> None:
    cells = planted()
    del cells[1, 0][6]
    assert {effect.seeds for effect in judge_effects(FACTORS, cells, "minimize")} == {(5, 7, 8)}
    cells[2, 1] = {}
    effects = judge_effects(FACTORS, cells, "minimize")
    assert {(effect.seeds, effect.verdict) for effect in effects} == {((), "undecided")}
    assert all("all cells" in effect.reason for effect in effects)


def test_a_level_whose_runs_failed_is_not_better_and_one_whose_counterparts_failed_is_not_worse() -> None:
    found = by_name(judge_effects(FACTORS, planted(), "minimize", failed={(1, 1): (6,)}))
    assert {levels: effect.verdict for levels, effect in found.items()} == {
        ("relu2",): "undecided",
        ("swiglu",): "worse",
        ("muon",): "undecided",
        ("relu2", "muon"): "worse",
        ("swiglu", "muon"): "undecided",
    }
    found = by_name(judge_effects(FACTORS, planted(), "minimize", failed={(0, 0): (6,)}))
    assert found["swiglu",].verdict == "undecided"
    assert found["muon",].verdict == "better"
    assert all(effect.seeds == (5, 7, 8) for effect in found.values())
    assert "failed with seed 6" in found["muon",].reason


def test_a_factor_with_one_level_has_no_effect() -> None:
    cells = {(mlp, 0): values for (mlp, optimizer), values in planted().items() if optimizer == 0}
    effects = judge_effects([FACTORS[0], ("optimizer", ("adamw",))], cells, "minimize")
    assert [effect.levels for effect in effects] == [("relu2",), ("swiglu",)]
