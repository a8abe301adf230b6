"""Removing runs: whole or not at all, never what a link leads to, never what others need."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from nanogpt_kit.core.errors import Busy, KitError
from nanogpt_kit.runs.folder import RunFolder, runs_of_experiment, runs_root
from nanogpt_kit.runs.index import index_runs
from nanogpt_kit.runs.removal import comparisons_with, reasons_to_stay, remove_run
from tests.runs.listed_runs import make_listed_run

Holder = Callable[[Path], AbstractContextManager[subprocess.Popen[str]]]


def reasons(folder: RunFolder, *removed: RunFolder) -> list[str]:
    return reasons_to_stay(folder, index_runs(), {os.path.realpath(run.path) for run in removed})


def hidden() -> list[str]:
    return [path.name for path in runs_root().rglob(".*.removed")]


def test_a_removed_run_leaves_nothing_and_its_neighbours_stay() -> None:
    one, two = make_listed_run("a/one"), make_listed_run("a/two")
    one.checkpoint(20).mkdir(parents=True)
    assert reasons(one) == []
    remove_run(one)
    assert [run.reference for run in index_runs()] == ["a/two"]
    assert sorted(path.name for path in (runs_root() / "a").iterdir()) == ["two"]
    remove_run(two)
    assert runs_root().is_dir()
    assert list(runs_root().iterdir()) == []


def test_links_in_a_run_are_removed_and_what_they_lead_to_stays(tmp_path: Path) -> None:
    run = make_listed_run("a/one")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("")
    (run.path / "checkpoints").symlink_to(tmp_path / "kept")
    (run.path / "link").symlink_to(tmp_path / "kept" / "file")
    remove_run(run)
    assert not run.path.exists()
    assert (tmp_path / "kept" / "file").exists()


def test_a_link_to_a_run_and_a_folder_that_may_not_be_one_stay() -> None:
    run = make_listed_run("a/one")
    link = RunFolder(runs_root() / "a" / "link")
    link.path.symlink_to(run.path)
    assert reasons(link) == [f"{link} is a link to {os.path.realpath(run.path)}; name that folder, or remove the link"]
    for name in ("provenance.json", "status.json"):
        (run.path / name).unlink()
    assert len(reasons(run)) == 1
    assert "may not be a run" in reasons(run)[0]


def test_a_busy_run_stays(holder: Holder) -> None:
    run = make_listed_run("a/one", state="running")
    with holder(run.path / "lock"), pytest.raises(Busy, match="used by another process"):
        remove_run(run)
    assert len(index_runs()) == 1
    remove_run(run)  # its process has died


@pytest.mark.parametrize("kind", ["init_from", "branched_from", "tokenizer_from"])
@pytest.mark.parametrize("is_relative", [True, False])
def test_a_run_that_another_one_began_from_stays(
    kind: str, is_relative: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = make_listed_run("a/one")
    checkpoint = parent.checkpoint(20)
    checkpoint.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    recorded = os.path.relpath(checkpoint, tmp_path) if is_relative else str(checkpoint)
    child = make_listed_run("b/deep/er/two", folder=str(tmp_path), **{kind: {"checkpoint": recorded}})
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert reasons(parent) == [f"{parent}: b/deep/er/two began from it; remove it first"]
    assert reasons(parent, child) == []
    assert reasons(child) == []


def test_a_link_on_the_way_to_a_checkpoint_hides_no_descendant(tmp_path: Path) -> None:
    parent = make_listed_run("a/one")
    (tmp_path / "short").symlink_to(parent.path)
    make_listed_run("a/two", init_from={"checkpoint": str(tmp_path / "short" / "checkpoints" / "step-00000020")})
    assert len(reasons(parent)) == 1


def test_a_run_with_another_one_inside_stays() -> None:
    run = make_listed_run("a/one")
    make_listed_run("a/one/inner")
    assert "contains other runs" in reasons(run)[0]
    assert "a/one/inner" in reasons(run)[0]


@pytest.mark.parametrize("form", ["absolute", "below the runs folder", "from here"])
def test_comparisons_that_name_a_run_are_found(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run, other = make_listed_run("a/compare/0123/base-s3"), make_listed_run("a/one")
    text = {
        "absolute": str(run),
        "below the runs folder": "a/compare/0123/base-s3",
        "from here": "runs/a/compare/0123/base-s3",
    }
    record = runs_root() / "a" / "compare" / "0123" / "comparison.json"
    record.write_text(json.dumps({"measurements": [{"run": "b/gone"}, {"run": text[form]}]}))
    (record.parent.parent / "damaged").mkdir()
    (record.parent.parent / "damaged" / "comparison.json").write_text("[[")
    assert comparisons_with(run) == ["a/compare/0123"]
    assert comparisons_with(other) == []


def test_what_needs_a_run_is_found_after_the_runs_folder_was_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, other = make_listed_run("a/one"), make_listed_run("a/one-more")
    make_listed_run("a/two", init_from={"checkpoint": "runs/a/one/checkpoints/step-00000020"})
    record = runs_root() / "a" / "compare" / "0123" / "comparison.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"measurements": [{"run": "runs/a/one"}, {"run": "a\0"}, 3, {}]}))
    assert comparisons_with(run) == ["a/compare/0123"]
    moved = tmp_path / "deep" / "moved"
    moved.parent.mkdir()
    runs_root().rename(moved)
    monkeypatch.setenv("NANOGPT_KIT_RUNS", str(moved))
    run, other = (RunFolder(moved / one.path.relative_to(one.path.parents[1])) for one in (run, other))
    assert comparisons_with(run) == ["a/compare/0123"]
    assert reasons(run) == [f"{run}: a/two began from it; remove it first"]
    assert (comparisons_with(other), reasons(other)) == ([], [])


@pytest.mark.parametrize("place", [".", "checkpoints"])
def test_a_run_with_the_current_folder_stays(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_listed_run("a/one")
    run.checkpoints.mkdir()
    monkeypatch.setenv("NANOGPT_KIT_RUNS", str(runs_root().absolute()))
    monkeypatch.chdir(run.path / place)
    name = Path(os.path.relpath(run.path))
    remedy = f"{os.path.realpath(name)} contains the current folder; give the command in another one"
    assert reasons(RunFolder(name)) == [remedy]


def test_a_path_may_lead_through_the_run() -> None:
    run = make_listed_run("a/one")
    remove_run(RunFolder(run.path / ".." / "one"))
    assert not run.path.exists()


def test_a_hidden_folder_of_a_user_stays() -> None:
    run = make_listed_run("a/one")
    (run.path.parent / ".mine.removed").mkdir()
    remove_run(run)
    assert [path.name for path in run.path.parent.iterdir()] == [".mine.removed"]


REMOVE = """
import sys
from pathlib import Path
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.removal import remove_run
print("ready", flush=True)
sys.stdin.readline()
remove_run(RunFolder(Path(sys.argv[1])))
"""


def test_a_kill_leaves_a_whole_run_or_none() -> None:
    whole = 0
    for attempt in range(6):
        run = make_listed_run(f"a/{attempt}")
        for number in range(80):
            (run.checkpoint(number) / "deep").mkdir(parents=True)
        files = sum(1 for _ in run.path.rglob("*"))
        command = [sys.executable, "-c", REMOVE, str(run)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.stdin.write("\n")
        process.stdin.flush()
        time.sleep(attempt * 0.003)
        process.kill()
        process.communicate()
        is_there = run.path.exists()
        assert [found.reference for found in index_runs()] == [f"a/{attempt}"] * is_there
        assert [found.path for found in runs_of_experiment(runs_root() / "a")] == [run.path] * is_there
        if is_there:
            whole += 1
            assert sum(1 for path in run.path.rglob("*") if path.name != "lock") == files
            shutil.rmtree(run.path)
    assert whole < 6  # some were killed while, or after, they removed it
    remove_run(make_listed_run("a/last"))
    assert hidden() == []


def test_a_folder_that_cannot_be_renamed_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_listed_run("a/one")

    def refuse(self: Path, target: Path) -> Path:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(KitError, match=r"cannot remove .*: Permission denied"):
        remove_run(run)
    assert (run.path / "experiment.toml").exists()
