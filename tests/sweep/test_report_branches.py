"""The best of each branch, fresh seeds, and verdicts on the page of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

from nanogpt_kit.sweep.report.confirmation_section import order_sentences
from nanogpt_kit.sweep.study.confirmation_state import ConfirmationState
from tests.sweep.planted_study import BRANCHES, SPACE, figures_of, one_trial, page_of, rates, rows_of, shown, sweep_of

SECTION = "Best of each branch"


def optimizer_trials() -> list[FrozenTrial]:
    """AdamW in a corner of its range, and Muon with more trials: complete, pruned and failed ones."""
    rows: list[tuple[str, float, float | None, TrialState]] = [
        ("adamw", 4.0e-3, 2.62, TrialState.COMPLETE),
        ("muon", 2.0e-2, 2.40, TrialState.COMPLETE),
        ("adamw", 9.9e-3, 2.61, TrialState.COMPLETE),
        ("muon", 5.0e-2, 3.54, TrialState.PRUNED),
        ("muon", 1.0e-2, 2.41, TrialState.COMPLETE),
        ("muon", 9.0e-2, None, TrialState.FAIL),
    ]
    return [
        one_trial(at, {"optimizer.use": name, "optimizer.lr": lr}, value, state, SPACE, tokens=1_000 * (at + 1))
        for at, (name, lr, value, state) in enumerate(rows)
    ]


def page_with(folder: Path, confirmed: dict[int, Sequence[float]] | None = None, **options: Any) -> str:
    return page_of(*sweep_of(optimizer_trials(), confirmed, space=SPACE, branches=BRANCHES, **options), folder)


def test_each_branch_has_its_trials_by_outcome_its_tokens_and_its_best(tmp_path: Path) -> None:
    (adamw, muon), _ = rows_of(page_with(tmp_path), SECTION)
    names = ("branch", "complete", "pruned", "no result", "tokens", "best trial", "val/loss", "its values")
    assert [adamw[name] for name in names] == [
        *("optimizer.use = adamw", "2", "0", "0", "4,000", "2", "2.61", "optimizer.lr = 0.0099")
    ]
    assert [muon[name] for name in names] == [
        *("optimizer.use = muon", "2", "1", "1", "17,000", "1", "2.40", "optimizer.lr = 0.02")
    ]


def test_each_branch_has_the_range_that_was_tried_and_whether_its_best_is_at_an_edge(tmp_path: Path) -> None:
    _, (adamw, muon) = rows_of(page_with(tmp_path), SECTION)
    assert (adamw["allowed"], adamw["tried"], adamw["part tried"]) == ("0.0001 to 0.01, log", "0.004 to 0.0099", "20%")
    assert (adamw["best trial has"], adamw["at an edge"]) == ("0.0099", "upper")
    assert (muon["allowed"], muon["tried"], muon["part tried"]) == ("0.003 to 0.1, log", "0.01 to 0.09", "63%")
    assert (muon["best trial has"], muon["at an edge"]) == ("0.02", "no")


def test_a_space_without_branches_has_no_such_table(tmp_path: Path) -> None:
    assert SECTION not in shown(page_of(*sweep_of(rates([3.0, 3.1, 3.2])), tmp_path))


def test_a_branch_without_a_complete_trial_has_its_counts(tmp_path: Path) -> None:
    page = page_of(*sweep_of(optimizer_trials()[:1], space=SPACE, branches=BRANCHES), tmp_path)
    (_, muon), (only,) = rows_of(page, SECTION)
    assert (muon["complete"], muon["tokens"], muon["best trial"], muon["its values"]) == ("0", "0", "", "")
    assert only["branch"] == "optimizer.use = adamw"


def test_several_seeds_have_mean_sd_and_n_in_tables(tmp_path: Path) -> None:
    seeds = {0: (2.62, 2.64, 2.60), 1: (2.40, 2.41, 2.39)}
    trials = [
        one_trial(at, {"optimizer.use": name, "optimizer.lr": 5e-3}, sum(seeds[at]) / 3, space=SPACE, values=seeds[at])
        for at, name in enumerate(("adamw", "muon"))
    ]
    page = page_of(*sweep_of(trials, space=SPACE, branches=BRANCHES, seeds=3), tmp_path)
    (adamw, muon), *_ = rows_of(page, SECTION)
    assert [(row["val/loss"], row["sd"], row["n"]) for row in (adamw, muon)] == [
        ("2.62", "0.02", "3"),
        ("2.40", "0.01", "3"),
    ]
    (table,) = rows_of(page, "All trials")
    assert [(row["trial"], row["val/loss"], row["sd"], row["n"]) for row in table] == [
        ("1", "2.40", "0.01", "3"),
        ("0", "2.62", "0.02", "3"),
    ]


FRESH = {0: (2.63, 2.65, 2.64), 1: (2.43, 2.46, 2.44), 2: (2.63, 2.66, 2.64)}


def test_every_fresh_seed_is_in_the_table_with_mean_sd_and_n(tmp_path: Path) -> None:
    page = page_with(tmp_path, FRESH, confirm=1)
    (table,) = rows_of(page, "Confirmation")
    assert [row["trial"] for row in table] == [
        "trial 1 (optimizer.use = muon)",
        "trial 0, as written (optimizer.use = adamw)",
        "trial 2 (optimizer.use = adamw)",
    ]
    first = table[0]
    assert [first[f"seed {seed}"] for seed in (8, 9, 10)] == ["2.43", "2.46", "2.44"]
    assert (first["mean"], first["sd"], first["n"], first["rank in the search"]) == ("2.4433", "0.0153", "3", "1")
    (adamw, muon), _ = rows_of(page, SECTION)
    assert (muon["fresh seeds: mean"], muon["fresh sd"], muon["fresh n"]) == ("2.4433", "0.0153", "3")
    assert adamw["fresh seeds: mean"] == "2.6433"


def test_the_page_begins_with_the_verdict_and_has_those_between_branches(tmp_path: Path) -> None:
    page = page_with(tmp_path, FRESH, confirm=1)
    words = shown(page)
    verdict = words.index(
        "Trial 1 (optimizer.use=muon, optimizer.lr=0.02) against trial 0, the experiment as written: "
    )
    assert verdict < words.index("The best is trial 1") < words.index("gave the branches unequal numbers of trials")
    branches = words[words.index("its values") : words.index("Trials run again")]
    muon, adamw = "Trial 1 (optimizer.use = muon)", "trial 2 (optimizer.use = adamw)"
    assert f"{muon} against {adamw}: val/loss lower by 0.20" in branches
    assert "No verdict between the branches" not in words


def test_what_the_confirmation_took_is_counted_apart(tmp_path: Path) -> None:
    summary, study = sweep_of(optimizer_trials(), FRESH, space=SPACE, branches=BRANCHES, confirm=1)
    assert summary.confirmation is not None
    state = replace(summary.confirmation, tokens=2_000_000, seconds=7_200.0)
    words = shown(page_of(replace(summary, confirmation=state), study, tmp_path))
    assert "21,000 tokens and 15 seconds of training so far" in words
    assert "9 of 9 runs with fresh seeds took 2 million tokens and 2.0 hours." in words


def test_differences_from_trial_0_are_paired_by_seed_with_an_interval_for_each(tmp_path: Path) -> None:
    page = page_with(tmp_path, FRESH, confirm=1)
    (table,) = rows_of(page, "Differences")
    pairs = {(row["trial"], row["against"]): row for row in table}
    assert pairs.keys() == {("1", "0"), ("2", "0"), ("1", "2")}
    muon = pairs["1", "0"]
    assert float(muon["difference"]) == pytest.approx(-0.19667, abs=1e-4)
    assert (muon["pairs"], muon["better in"], muon["verdict"]) == ("3", "3 of 3", "better")
    low, high = map(float, muon["interval"].split(" to "))
    assert low < -0.19667 < high < 0
    assert pairs["2", "0"]["verdict"] == "undecided"
    if "Differences" in figures_of(page):
        ((data, layout),) = figures_of(page)["Differences"]
        row = layout["yaxis"]["ticktext"].index("trial 1 against trial 0")
        (dots,) = [trace for trace in data if trace["name"] == "a seed"]
        found = [x for x, y in zip(dots["x"], dots["y"], strict=True) if round(y) == row]
        assert sorted(found) == pytest.approx([-0.2, -0.2, -0.19])


@pytest.mark.parametrize(
    ("fresh", "told"),
    [
        ({0: [3.0, 3.02], 1: [3.2, 3.22], 2: [3.4, 3.42]}, "have the order of the search"),
        ({0: [3.0, 3.02], 1: [3.4, 3.42], 2: [3.2, 3.22]}, "Trial 0 stays first"),
        (
            {0: [3.4, 3.42], 1: [3.0, 3.02], 2: [3.2, 3.22]},
            "trial 1 is first, and trial 0, the first of the search, is 3rd",
        ),
    ],
)
def test_the_order_by_fresh_seeds_is_told_without_a_verdict(fresh: dict[int, list[float]], told: str) -> None:
    summary, _ = sweep_of(rates([3.0, 3.1, 3.2, 3.3]), fresh)
    (sentence,) = order_sentences(summary)
    assert told in sentence
    for claim in ("better", "worse", "confirm", "separate", "standard error"):
        assert claim not in sentence


def test_while_fresh_seeds_run_the_page_does_not_ask_for_them(tmp_path: Path) -> None:
    summary, study = sweep_of(optimizer_trials(), space=SPACE, branches=BRANCHES, confirm=1)
    state = ConfirmationState(trials=(0, 1), seeds=(8, 9), runs=4, ended=1, is_running=True)
    words = shown(page_of(replace(summary, confirmation=state), study, tmp_path))
    assert "No verdict between the branches yet: the runs with fresh seeds have not ended." in words
    assert "(confirm in [sweep])" not in words


def test_the_page_does_not_ask_for_a_confirmation_that_the_experiment_has(tmp_path: Path) -> None:
    trials = optimizer_trials()
    waits = page_of(*sweep_of(trials, space=SPACE, branches=BRANCHES, confirm=1), tmp_path)
    assert "No verdict between the branches yet: no run with a fresh seed has begun." in shown(waits)
    adamw = [trial for trial in trials if trial.params["optimizer.use"] == "adamw"]
    fresh = {0: FRESH[0], 1: FRESH[2]}
    page = page_of(*sweep_of(adamw, fresh, space=SPACE, branches=BRANCHES, confirm=1), tmp_path)
    assert "No verdict between the branches: only optimizer.use = adamw has a complete trial." in shown(page)
    assert "(confirm in [sweep])" not in shown(waits) + shown(page)
    without = page_of(*sweep_of(trials, space=SPACE, branches=BRANCHES), tmp_path)
    assert "it requires fresh seeds for the best of each (confirm in [sweep])." in shown(without)
