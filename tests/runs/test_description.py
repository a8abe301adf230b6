"""The line that says which run a command takes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from nanogpt_kit.runs.find import find_run
from nanogpt_kit.runs.folder import RunFolder
from tests.runs.made_runs import losses, make_run

Holder = Callable[[Path], AbstractContextManager[subprocess.Popen[str]]]


@pytest.fixture(autouse=True)
def in_the_folder_of_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def line(run: RunFolder, rest: str) -> str:
    return f"run runs/tiny/{run.path.name}: {rest}"


def test_a_single_run_has_its_step_and_loss_and_nothing_in_parentheses() -> None:
    run = make_run(evaluations=losses(s10=5.0, s20=4.6845))
    for reference in ("tiny", "tiny@best", run.path.name):
        assert find_run(reference).described() == line(run, "step 20 of 20, val/loss 4.6845")


def test_the_newest_of_several_is_compared_with_the_best() -> None:
    best, newest = make_run(evaluations=losses(s20=1.4412)), make_run(evaluations=losses(s20=4.6845))
    found = find_run("tiny").described()
    assert found == line(newest, "step 20 of 20, val/loss 4.6845 (newest of 2; tiny@best: 1.4412)")
    assert find_run("tiny@best").described() == line(best, "step 20 of 20, val/loss 1.4412 (best of 2)")
    assert find_run(newest).described() == line(newest, "step 20 of 20, val/loss 4.6845")


def test_the_reference_in_the_line_finds_the_best_run() -> None:
    best, _ = make_run(evaluations=losses(s20=1.5)), make_run(evaluations=losses(s20=4.5))
    named = find_run("runs/tiny/").described().partition("; ")[2].partition(":")[0]
    assert named == "runs/tiny@best"
    assert find_run(named).folder.path.absolute() == best.path


def test_a_newest_run_that_is_also_the_best_is_called_so_where_all_compare() -> None:
    make_run(evaluations=losses(s20=4.75))
    newest = make_run(evaluations=losses(s20=4.5))
    assert find_run("tiny").described() == line(newest, "step 20 of 20, val/loss 4.5000 (newest and best of 2)")
    make_run(evaluations=losses(s20=1.0), data=("other", "others"))
    newest = make_run(evaluations=losses(s20=4.25))
    assert find_run("tiny").described().endswith("(newest of 4)")
    told = find_run("tiny@best").described()
    assert told == line(newest, "step 20 of 20, val/loss 4.2500 (best of the 3 that compare, of 4)")


def test_bits_per_byte_of_another_tokenizer_stand_beside_those_of_the_run() -> None:
    make_run(evaluations={20: {"val/loss": 3.5, "val/bits_per_byte": 2.125}}, data=("text", "bpe"))
    newest = make_run(evaluations={20: {"val/loss": 1.5, "val/bits_per_byte": 2.25}}, data=("text", "bytes"))
    more = "(newest of 2; tiny@best: 2.1250 bits per byte, this one 2.2500)"
    assert find_run("tiny").described() == line(newest, f"step 20 of 20, val/loss 1.5000 {more}")


def test_a_newer_unfinished_run_is_named_with_its_progress(holder: Holder) -> None:
    finished = make_run()
    newer = make_run(state="interrupted", steps=[4], total_steps=10)
    more = f"newest finished of 2; newer: {newer.path.name}, interrupted at step 4 of 10"
    assert find_run("tiny").described() == line(finished, f"step 20 of 20 ({more})")
    newer = make_run(state="failed", steps=[])
    told = find_run("tiny").described()
    assert f"(newest finished of 3; newer: {newer.path.name}, failed, without a checkpoint)" in told
    newer = make_run(state="running", steps=[2, 6], total_steps=10)
    assert f"newer: {newer.path.name}, interrupted at step 6 of 10" in find_run("tiny").described()
    with holder(newer.path / "lock"):
        assert f"newer: {newer.path.name}, running at step 6 of 10" in find_run("tiny").described()
    assert find_run(newer.path.name).folder == newer


def test_an_unfinished_run_has_its_state() -> None:
    run = make_run(state="failed", steps=[10], evaluations=losses(s10=4.5, s15=4.25))
    assert find_run("tiny").described() == line(run, "step 10 of 20, val/loss 4.5000 (failed)")
    make_run(state="interrupted", steps=[])
    told = find_run("tiny").described()
    assert told.startswith(line(run, "step 10 of 20, val/loss 4.5000 (failed; newest with a checkpoint of 2; newer: "))
    killed = make_run("killed", state="running", steps=[10])
    assert find_run("killed").described() == f"run runs/killed/{killed.path.name}: step 10 of 20 (interrupted)"
    other = make_run("other", state="failed", steps=[])
    assert find_run("other").described() == f"run runs/other/{other.path.name}: no checkpoint yet (failed)"


def test_the_loss_is_that_of_the_checkpoint_or_of_the_evaluation_before_it() -> None:
    run = make_run(steps=[5, 10, 14, 20], evaluations=losses(s10=5.0, s20=4.0))
    assert find_run("tiny@20").described() == line(run, "step 20 of 20, val/loss 4.0000")
    assert find_run("tiny@10").described() == line(run, "step 10 of 20, val/loss 5.0000")
    assert find_run("tiny@14").described() == line(run, "step 14 of 20, val/loss 5.0000 at step 10")
    assert find_run("tiny@5").described() == line(run, "step 5 of 20")
    assert find_run("tiny").described(step=14) == line(run, "step 14 of 20, val/loss 5.0000 at step 10")


@pytest.mark.parametrize("content", ["", "[]", '{"state": "finished"', "[" * 100_000])
def test_a_damaged_status_leaves_a_line(content: str) -> None:
    run = make_run(evaluations=losses(s20=4.0))
    (run.path / "status.json").write_text(content)
    assert find_run("tiny").described() == line(run, "step 20, val/loss 4.0000 (interrupted)")
