"""`runs rm`: shows, asks, refuses what others need, and removes all or nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import optuna
import pytest

from nanogpt_kit.cli import runs_rm
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.sweep.study.records import CellRecord
from nanogpt_kit.sweep.study.storage import open_storage
from tests.runs.listed_runs import make_listed_run

Command = Callable[..., Any]


def refusal(answer: Any) -> str:
    assert (answer.code, answer.out) == (2, ""), answer
    assert "Traceback" not in answer.err
    return str(answer.err)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The questions that are asked on a terminal; the answer to each is in `answers`."""
    questions: list[str] = []
    terminal = SimpleNamespace(isatty=lambda: True)
    monkeypatch.setattr(runs_rm, "sys", SimpleNamespace(stdin=terminal, stderr=terminal))

    def confirm(text: str, **_: object) -> bool:
        questions.append(text)
        return len(questions) > 1

    monkeypatch.setattr(click, "confirm", confirm)
    return questions


def test_it_shows_what_is_removed_and_asks(command: Command, asked: list[str]) -> None:
    run = make_listed_run("a/one", step=17)
    run.checkpoint(10).mkdir(parents=True)
    (run.checkpoint(10) / "weights").write_bytes(b"x" * 2_000_000)
    answer = command("runs", "rm", "a/one")
    assert (answer.code, answer.out) == (0, ""), answer.err
    assert f"{run}: 2.0 MB, finished at step 17, 1 checkpoint\n" in answer.err
    assert "nothing was removed" in answer.err
    assert run.path.exists()
    answer = command("runs", "rm", "a/one")
    assert (answer.code, answer.out) == (0, f"removed: {run}\n")
    assert not run.path.exists()
    assert asked == ["remove this run, 2.0 MB?"] * 2


def test_what_happens_while_it_asks_counts(command: Command, asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    parent = make_listed_run("a/one")

    def confirm(text: str, **_: object) -> bool:
        make_listed_run("a/two", branched_from={"checkpoint": str(parent.checkpoint(20)), "sha256": ""})
        return True

    monkeypatch.setattr(click, "confirm", confirm)
    assert "a/two began from it" in refusal(command("runs", "rm", parent))
    assert parent.path.exists()


def test_a_run_is_removed_before_the_one_that_it_began_from(command: Command) -> None:
    parent, child = (make_listed_run(f"a/2026010{day}-000000000-s7-aaaaaa") for day in (1, 2))
    answer = command("runs", "rm", parent, child, "--yes")
    assert answer.out == f"removed: {child}\nremoved: {parent}\n"


def test_without_a_terminal_it_removes_nothing_unless_told_so(command: Command) -> None:
    runs = [make_listed_run(f"a/{name}") for name in ("one", "two")]
    assert "--yes" in refusal(command("runs", "rm", *runs))
    assert all(run.path.exists() for run in runs)
    answer = command("runs", "rm", *runs, "a/one", "--yes")
    assert answer.code == 0, answer.err
    assert not any(run.path.exists() for run in runs)


def test_an_experiment_and_a_checkpoint_are_not_removed(command: Command) -> None:
    run = make_listed_run("a/one")
    run.checkpoint(20).mkdir(parents=True)
    message = refusal(command("runs", "rm", "a", "a/one@20", "--yes"))
    assert f"'a' names an experiment; name its runs by their folders: {run}" in message
    assert "'a/one@20' names a checkpoint" in message
    assert run.path.exists()


def test_a_busy_run_keeps_every_run(command: Command) -> None:
    busy, other = make_listed_run("a/one", state="running"), make_listed_run("a/two")
    with busy.lock():
        answer = command("runs", "rm", other, busy, "--yes")
    assert (answer.code, answer.out) == (75, "")
    assert f"{busy} is being used by another process" in answer.err
    assert other.path.exists()


def test_a_run_that_others_began_from_is_removed_only_with_them(command: Command) -> None:
    parent = make_listed_run("a/one")
    child = make_listed_run("a/two", branched_from={"checkpoint": str(parent.checkpoint(20)), "sha256": ""})
    assert "a/two began from it; remove it first" in refusal(command("runs", "rm", parent, "--yes"))
    assert command("runs", "rm", parent, child, "--yes").code == 0
    assert not parent.path.exists()


def test_a_run_of_a_recorded_comparison_needs_consent_and_the_record_stays(command: Command, asked: list[str]) -> None:
    run = make_listed_run("a/compare/0123/base-s3")
    record = run.path.parent / "comparison.json"
    record.write_text(json.dumps({"measurements": [{"run": str(run)}]}))
    message = refusal(command("runs", "rm", run))
    assert "a/compare/0123" in message
    assert "--yes removes the run; the record stays" in message
    assert not asked
    answer = command("runs", "rm", run, "--yes")
    assert answer.code == 0, answer.err
    assert "the record of the comparison a/compare/0123 stays, with this run's values" in answer.err
    assert record.exists()
    assert not run.path.exists()


@pytest.fixture
def trial() -> tuple[RunFolder, optuna.Study]:
    """A trial of a sweep with two trials, of which one has ended."""
    run = make_listed_run("a/sweep/trial-0000-s7")
    study = optuna.create_study(study_name="a", storage=open_storage("journal", run.path.parent))
    study.set_user_attr("count", 2)
    study.tell(study.ask(), 1.0)
    return run, study


def test_a_trial_of_an_unfinished_sweep_stays(command: Command, trial: tuple[RunFolder, optuna.Study]) -> None:
    run, study = trial
    message = refusal(command("runs", "rm", run, "--yes"))
    assert (
        f"{run} is a trial of the study in {run.path.parent}, of which 1 trial has not ended; finish it first"
        in message
    )
    study.tell(study.ask(), state=optuna.trial.TrialState.PRUNED)
    assert command("runs", "rm", run, "--yes").code == 0
    assert not run.path.exists()


def test_a_run_of_a_comparison_that_finished_just_before_a_kill_has_ended(command: Command) -> None:
    runs = [
        make_listed_run(f"a/compare/0123/base-s{seed}", state=state)
        for seed, state in ((3, "finished"), (4, "running"))
    ]
    study = optuna.create_study(study_name="a", storage=open_storage("journal", runs[0].path.parent))
    study.set_user_attr("count", 2)
    for run in runs:
        record = CellRecord(identity="0", seed=3, generation=0, run=run.path.name)
        study.ask().set_user_attr(record.attribute, record.stored())
    assert "1 trial has not ended" in refusal(command("runs", "rm", runs[0], "--yes"))
    runs[1].set_status("finished")
    answer = command("runs", "rm", runs[0], "--yes")
    assert answer.code == 0, answer.err


def test_a_trial_whose_sweep_cannot_be_read_stays(command: Command, tmp_path: Path) -> None:
    run = make_listed_run("a/sweep/trial-0000-s7")
    (run.path.parent / "trials").mkdir()
    assert "in another storage" in refusal(command("runs", "rm", run, "--yes"))
    (run.path.parent / "study.journal").write_text("{}\n" * 3)
    assert "cannot be read" in refusal(command("runs", "rm", run, "--yes"))
    assert run.path.exists()


def test_every_reason_is_named_at_once(command: Command) -> None:
    one, two = make_listed_run("a/one"), make_listed_run("a/two")
    make_listed_run(
        "a/three", init_from={"checkpoint": str(one.checkpoint(1))}, tokenizer_from={"checkpoint": str(two.path)}
    )
    message = refusal(command("runs", "rm", one, two, "--yes"))
    assert "2 errors" in message
    assert message.count("a/three began from it") == 2
