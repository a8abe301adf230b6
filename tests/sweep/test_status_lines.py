"""What `sweep` and `sweep status` print of seeds, of a confirmation and of branches; no run is started."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import pytest
import rich
from rich.console import Console
from rich.table import Table

from nanogpt_kit.cli.sweep_output import print_result, print_status, status_json
from nanogpt_kit.core.sections import Sweep
from nanogpt_kit.sweep.study.branches import Branch
from nanogpt_kit.sweep.study.confirmation import ConfirmedTrial
from nanogpt_kit.sweep.study.confirmation_state import ConfirmationState
from nanogpt_kit.sweep.study.summary import SweepSummary, TrialSummary
from nanogpt_kit.sweep.study.time_left import seconds_left
from nanogpt_kit.sweep.study.verdict import headline
from nanogpt_kit.sweep.work.result_lines import result_lines
from nanogpt_kit.sweep.work.seed_text import mean_text
from nanogpt_kit.sweep.work.status_table import branches_table, trials_table

GELU = (3.1129, 3.0963, 3.1782)
SWIGLU = (3.1493, 3.2059, 3.1745)
MUON = (2.4039, 2.4021, 2.4060)
ADAMW, OTHER = {"optimizer.use": "adamw"}, {"optimizer.use": "muon"}


@pytest.fixture(autouse=True)
def console(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the one that an earlier command has set to standard error."""
    monkeypatch.setattr(rich, "_console", None)


def complete(index: int, values: Sequence[float], use: str = "adamw", **more: Any) -> TrialSummary:
    params = {"optimizer.use": use, f"optimizer.lr@optimizer.use={use}": 0.003}
    config = {"optimizer.use": use, "optimizer.lr": 0.003}
    seeds = tuple(values) if len(values) > 1 else ()
    mean = sum(values) / len(values)
    return TrialSummary(index, "complete", config, params, mean, values=seeds, tokens=9_600, seconds=10.0, **more)


def sweep_of(*trials: TrialSummary, confirmed: Sequence[ConfirmedTrial] = (), **more: Any) -> SweepSummary:
    options = more.pop("options", {})
    chosen = Sweep(space={"optimizer.use": {"choice": ["adamw", "muon"]}}, **options)
    tried = {one.index: len(one.by_seed) + len(one.failed) for one in confirmed}
    more = {"count": len(trials), "seed": 1337, **more}
    state = confirmation_of(confirmed, chosen.confirm_seeds) if confirmed else None
    return SweepSummary(
        "two", chosen, trials=trials, confirmed=tuple(confirmed), fresh_seeds=tried, confirmation=state, **more
    )


def confirmation_of(confirmed: Sequence[ConfirmedTrial], seeds: int) -> ConfirmationState:
    ended = sum(len(one.by_seed) + len(one.failed) for one in confirmed)
    indices = tuple(one.index for one in confirmed)
    runs, each = len(confirmed) * seeds, tuple(range(1340, 1340 + seeds))
    return ConfirmationState(indices, each, runs, ended, False, tokens=ended * 9_600, seconds=ended * 10.0)


def fresh(index: int, values: Sequence[float], failed: tuple[int, ...] = ()) -> ConfirmedTrial:
    seeds = [seed for seed in range(1340, 1350) if seed not in failed]
    return ConfirmedTrial(index, dict(zip(seeds, values, strict=False)), failed)


def two_branches(**more: Any) -> SweepSummary:
    """Two optimizers, of which three trials of one seed were confirmed with three others."""
    trials = [complete(0, [2.6197]), complete(1, [2.4010], "muon"), complete(2, [2.7], "muon")]
    trials.append(TrialSummary(3, "pruned", trials[2].config, trials[2].params, 3.5, tokens=900, reason="too high"))
    confirmed = [fresh(1, MUON), fresh(0, (2.6201, 2.6180, 2.6221))]
    branches = (Branch(ADAMW), Branch(OTHER))
    return sweep_of(*trials, confirmed=confirmed, branches=branches, options={"confirm": 1}, **more)


def printed(table: Table, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


# The values of seeds


def test_a_mean_has_its_standard_deviation_and_each_value() -> None:
    assert mean_text("val/loss", GELU) == "val/loss 3.1291, sd 0.0433 over 3 seeds (3.1129, 3.0963, 3.1782)"
    assert mean_text("val/loss", GELU[:1]) == "val/loss 3.1129"
    failed = mean_text("val/loss", GELU[:1], "fresh seed", "seed 1341 failed")
    assert failed == "val/loss 3.1129 over 1 fresh seed (3.1129; seed 1341 failed)"
    assert mean_text("x", [1.0] * 11).endswith("(" + "1.0000, " * 8 + "and 3 more)")


def test_the_status_table_has_mean_spread_and_count_where_there_are_several_seeds() -> None:
    summary = sweep_of(complete(0, GELU), complete(1, SWIGLU, "muon"), options={"seeds": 3})
    header, first, second = printed(trials_table(summary), 200)
    assert header.split() == ["trial", "state", "val/loss", "sd", "n", "tokens", "time", "values"]
    assert first.split()[:5] == ["0", "complete", "3.1291", "0.0433", "3"]
    assert second.split()[:5] == ["1", "complete", "3.1766", "0.0284", "3"]
    single = printed(trials_table(sweep_of(complete(0, GELU[:1]))), 200)
    assert single[0].split() == ["trial", "state", "val/loss", "tokens", "time", "values"]


def test_fresh_seeds_have_a_row_below_their_trial() -> None:
    rows = [line.split()[:5] for line in printed(trials_table(two_branches()), 200)]
    assert rows[1:5] == [
        ["1", "complete", "2.4010", "9,600", "10"],
        ["1", "confirmed", "2.4040", "0.0020", "3"],
        ["0", "complete", "2.6197", "9,600", "10"],
        ["0", "confirmed", "2.6201", "0.0021", "3"],
    ]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_tables_stay_readable_at_every_width(width: int) -> None:
    for table in (trials_table(two_branches(), width), branches_table(two_branches(), width)):
        lines = printed(table, width)
        assert max(map(len, lines)) <= width
        words = {word for line in lines for word in line.split()}
        assert {"2.4010", "2.4040", "0.0020", "val/loss", "sd"} <= words, "no number is divided"
    shown = " ".join(printed(trials_table(two_branches(), width), width))
    assert "optimizer.lr=0.003" in shown.split()
    assert " ".join(shown.replace("(", "").split()).count("too") == 1, "a reason is shown at every width"


# Branches


def test_the_best_of_each_branch_is_shown_with_its_trials_and_fresh_seeds() -> None:
    header, adamw, muon = [line.split() for line in printed(branches_table(two_branches()), 200)]
    assert header == ["branch", "trials", "complete", "best", "val/loss", "fresh", "sd", "n"]
    assert adamw == ["optimizer.use", "=", "adamw", "1", "1", "0", "2.6197", "2.6201", "0.0021", "3"]
    assert muon == ["optimizer.use", "=", "muon", "3", "2", "1", "2.4010", "2.4040", "0.0020", "3"]


def test_a_branch_without_a_complete_trial_has_no_best() -> None:
    summary = sweep_of(complete(0, [2.5]), branches=(Branch(ADAMW), Branch(OTHER)))
    rows = [line.split() for line in printed(branches_table(summary), 200)]
    assert rows[2] == ["optimizer.use", "=", "muon", "0", "0"]


def test_the_seeds_of_a_search_are_the_spread_of_a_branch_where_none_are_fresh() -> None:
    trials = [complete(0, GELU), complete(1, SWIGLU, "muon")]
    summary = sweep_of(*trials, branches=(Branch(ADAMW), Branch(OTHER)), options={"seeds": 3})
    header, adamw, _ = [line.split() for line in printed(branches_table(summary), 200)]
    assert header == ["branch", "trials", "complete", "best", "val/loss", "sd", "n"]
    assert adamw[3:] == ["1", "1", "0", "3.1291", "0.0433", "3"]


def test_a_branch_that_no_verdict_is_about_is_named() -> None:
    lost = [TrialSummary(at, "pruned", OTHER, OTHER, cause="oom") for at in (2, 3)]
    confirmed = [fresh(1, MUON), fresh(0, (2.6201, 2.6180, 2.6221))]
    trials = [complete(0, [2.6197]), complete(1, [2.4010]), *lost]
    branches = (Branch(ADAMW), Branch(OTHER))
    lines = [*result_lines(sweep_of(*trials, confirmed=confirmed, branches=branches, options={"confirm": 1}))]
    assert lines[1] == "note: no trial with optimizer.use = muon is complete, so that this branch is not compared"
    assert not [line for line in result_lines(two_branches()) if "complete" in line]


def test_both_commands_show_the_branches(capsys: pytest.CaptureFixture[str]) -> None:
    print_status(two_branches())
    print_result(two_branches())
    shown = capsys.readouterr()
    for text in shown:
        assert "best of each branch:\nbranch " in text
    print_status(sweep_of(complete(0, GELU)))
    assert "branch" not in capsys.readouterr().out


# The verdict first


def test_the_first_line_is_the_verdict_and_no_other_claims_a_gain(capsys: pytest.CaptureFixture[str]) -> None:
    summary = two_branches()
    print_status(summary)
    print_result(summary)
    for text in capsys.readouterr():
        lines = text.splitlines()
        assert lines[0] == headline(summary)
        assert not [line for line in lines if line.startswith("best: ")]
        assert "lowest mean over fresh seeds: trial 1: optimizer.use=muon  optimizer.lr=0.003" in lines
    print_result(sweep_of(complete(0, [2.6]), complete(1, [2.4], "muon")))
    lines = capsys.readouterr().err.splitlines()
    assert "lowest value: trial 1, val/loss 2.4000: optimizer.use=muon  optimizer.lr=0.003" in lines
    assert "lower by" not in " ".join(lines)


def test_a_reason_that_is_the_verdict_is_not_repeated_as_a_note() -> None:
    reason = "trial 1 and trial 0 have other evaluators"
    confirmed = [fresh(1, MUON), fresh(0, (2.6201, 2.6180, 2.6221))]
    trials = [complete(0, [2.6197]), complete(1, [2.4010], "muon")]
    summary = sweep_of(*trials, confirmed=confirmed, options={"confirm": 1}, not_comparable={1: reason})
    assert " ".join(result_lines(summary)).count(reason) == 1


def test_where_no_trial_has_a_value_the_reason_and_the_report_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    trial = TrialSummary(0, "pruned", ADAMW, ADAMW, cause="oom", reason="out of memory")
    print_result(sweep_of(trial))
    first, last = capsys.readouterr().err.splitlines()
    assert first == "No verdict: no trial is complete."
    assert re.fullmatch(r"results: \S*runs/two/sweep/report\.html", last)
    begun = TrialSummary(0, "running", ADAMW, ADAMW)
    print_status(sweep_of(begun, count=4))
    assert capsys.readouterr().out.startswith("No verdict yet: 0 of 4 trials have ended.\n")


def test_how_far_a_confirmation_is_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    trials = [complete(0, [2.0]), complete(1, [1.0])]
    print_status(sweep_of(*trials, confirmed=[fresh(1, [1.1])], options={"confirm": 1}))
    out = capsys.readouterr().out
    assert "confirmation: 1 of 3 runs ended, 9,600 tokens in 10 s of training\n" in out
    assert out.startswith("No verdict: 1 of 3 runs with fresh seeds has ended: too few pairs; the same command ")
    assert "confirmed: trial 1: val/loss 1.1000 over 1 fresh seed (1.1000; 1 of 3 seeds has ended)\n" in out


def test_where_more_is_better_the_highest_value_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    print_result(sweep_of(complete(0, [0.5]), complete(1, [0.75], "muon"), options={"direction": "maximize"}))
    assert "highest value: trial 1, val/loss 0.7500: " in capsys.readouterr().err


def test_the_fresh_seeds_of_each_trial_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    confirmed = [fresh(1, (1.5, 1.7), failed=(1341,)), fresh(0, (2.0, 2.0, 2.0))]
    print_status(sweep_of(complete(0, [2.0]), complete(1, [1.0]), confirmed=confirmed))
    out = capsys.readouterr().out
    assert "confirmed: trial 1: val/loss 1.6000, sd 0.1414 over 2 fresh seeds (1.5000, 1.7000; seed 1341 failed)" in out
    assert "confirmed: trial 0: val/loss 2.0000, sd 0.0000 over 3 fresh seeds (2.0000, 2.0000, 2.0000)" in out


# For programs


def test_the_json_has_the_verdict_the_branches_and_every_seed() -> None:
    summary = two_branches()
    told = status_json(summary)
    assert told["headline"] == headline(summary)
    assert told["verdict"]["best"]["trial"] == 1
    assert [(one["trial"], one["base"]) for one in told["verdict"]["against_first"]] == [(1, 0)]
    assert told["confirmation"] == {"runs": 6, "ended": 6, "tokens": 57_600, "seconds": 60.0}
    assert told["branches"] == [
        {"label": "optimizer.use = adamw", "values": ADAMW, "trials": [0], "best": 0},
        {"label": "optimizer.use = muon", "values": OTHER, "trials": [1, 2, 3], "best": 1},
    ]
    first, second = told["confirmed"]
    assert first["by_seed"] == {"1340": 2.4039, "1341": 2.4021, "1342": 2.4060}
    assert (first["trial"], first["failed"], second["trial"]) == (1, [], 0)
    assert first["sd"] == pytest.approx(0.00195, abs=1e-5)
    several = status_json(sweep_of(complete(0, GELU), options={"seeds": 3}))["trials"][0]
    assert several["by_seed"] == dict(zip(("1337", "1338", "1339"), GELU, strict=True))
    assert several["sd"] == pytest.approx(0.0433, abs=1e-4)


# The time left


def test_the_time_left_includes_the_confirmation_that_is_planned() -> None:
    branches = (Branch(ADAMW), Branch(OTHER))
    options = {"confirm": 1, "confirm_seeds": 2, "trials": 4}
    begun = sweep_of(complete(0, [2.0]), options=options, count=4, branches=branches)
    assert seconds_left(begun) == 3 * 10 + 3 * 2 * 10, "without its 6 runs it was 30 s"
    seeds = sweep_of(complete(0, (2.0, 2.1)), options={**options, "seeds": 2}, count=4)
    assert seconds_left(seeds) == 3 * 10 + 2 * 2 * 5, "a run of the confirmation has one seed"
    ended = [complete(0, [2.0]), complete(1, [1.0]), complete(2, [3.0], "muon")]
    halfway = sweep_of(*ended, confirmed=[fresh(1, [1.1])], options=options, branches=branches)
    assert seconds_left(halfway) == 5 * 10, "trials 0, 1 and 2 with two seeds each, without the run that has ended"
    budget = sweep_of(complete(0, [2.0]), options={**options, "max_seconds": 25.0}, count=4)
    assert seconds_left(budget) == 15, "the budget ends it sooner"
    tokens = budget.trials[0].tokens
    budget = sweep_of(complete(0, [2.0]), options={**options, "max_tokens": 2 * tokens}, count=4)
    assert seconds_left(budget) == 10, "room for the tokens of one more trial"
