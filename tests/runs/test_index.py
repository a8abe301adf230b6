"""The index of runs: every run at any depth, the truth of the folders, and a cache that nobody has to trust."""

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

from nanogpt_kit.runs import index
from nanogpt_kit.runs.folder import runs_root
from nanogpt_kit.runs.index import cache_file, index_runs, read_run
from nanogpt_kit.runs.indexed_run import IndexedRun
from nanogpt_kit.runs.notes import add_note
from nanogpt_kit.system.folders import cache_dir
from tests.runs.listed_runs import make_listed_run, make_old
from tests.runs.made_runs import losses, make_run


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs whose files were read, in order."""
    names: list[str] = []
    original = IndexedRun.read.__func__  # type: ignore[attr-defined]

    def read(cls: type[IndexedRun], path: str, reference: str) -> IndexedRun:
        names.append(reference)
        return original(cls, path, reference)

    monkeypatch.setattr(IndexedRun, "read", classmethod(read))
    return names


def references() -> list[str]:
    return [run.reference for run in index_runs()]


def only_run() -> IndexedRun:
    [run] = index_runs()
    return run


def test_runs_at_any_depth_are_found_in_order_of_their_start() -> None:
    make_listed_run("b/sweep/trial-0001-s7", started="2026-01-02T00:00:03Z")
    make_listed_run("a/compare/0123abcd/base-s3", started="2026-01-02T00:00:01Z")
    make_listed_run("mine", started="2026-01-02T00:00:04Z")
    make_listed_run("a/20260102-000002000-s5-abcdef", started="")
    assert references() == [
        "a/compare/0123abcd/base-s3",
        "a/20260102-000002000-s5-abcdef",
        "b/sweep/trial-0001-s7",
        "mine",
    ]


def test_there_are_no_runs_without_a_folder_of_runs() -> None:
    assert index_runs() == []


def test_hidden_folders_and_runs_within_runs_are_left_out() -> None:
    outer = make_listed_run("a/outer")
    shutil.copytree(outer.path, runs_root() / "a" / ".outer.0123456789abcdef.removed")
    shutil.copytree(outer.path, runs_root() / "a" / "outer" / "inner")
    assert references() == ["a/outer"]


def test_links_to_folders_elsewhere_are_followed_once_and_circles_end(tmp_path: Path) -> None:
    run = make_listed_run("a/one")
    (tmp_path / "disk").mkdir()
    shutil.copytree(run.path, tmp_path / "disk" / "two")
    (runs_root() / "b").symlink_to(tmp_path / "disk")
    (runs_root() / "c").symlink_to(tmp_path / "disk")
    (runs_root() / "a" / "up").symlink_to(runs_root())
    (tmp_path / "disk" / "up").symlink_to(tmp_path)
    assert sorted(path.rpartition("/")[2] for path in references()) == ["one", "two"]


def test_a_row_has_what_the_files_say() -> None:
    data = {
        "folder": "data/x",
        "dataset": "d1",
        "tokenizer": "t1",
        "splits": {"train": "h1", "val": "h2"},
        "documents": {},
    }
    origin = {"fingerprint": "f1", "configuration": "c1", "code": "k1", "yardsticks": {"val/loss": "y1"}, "data": data}
    options = {"train.seed": 11, "model.mlp": {"use": "swiglu"}}
    run = make_listed_run("tiny/one", options, loss=2.25, step=13, state="interrupted", **origin)
    row = only_run()
    assert (row.path, row.experiment, row.seed, row.state) == (os.path.abspath(run.path), "tiny", 11, "interrupted")
    assert (row.step, row.total_steps, row.tokens, row.seconds) == (13, 20, 80 * 13, 13 / 8)
    assert (row.evaluated_step, row.metrics) == (12, {"val/loss": 2.25, "train/loss": pytest.approx(2.87)})
    assert (row.fingerprint, row.configuration, row.code, row.yardsticks) == ("f1", "c1", "k1", {"val/loss": "y1"})
    assert row.data == {"dataset": "d1", "tokenizer": "t1", "train": "h1", "val": "h2"}
    assert row.options["sampler"] == ["temperature", "top_k"]
    values = [row.value(key) for key in ("model.mlp", "model.mlp.use", "sampler.top_k.k", "optimizer.betas", "train.x")]
    assert values == ["swiglu", "swiglu", 200, [0.9, 0.95], None]


def test_components_of_one_name_in_a_list_are_told_apart_by_their_index() -> None:
    make_listed_run("a/one", {"evaluator": [{"use": "loss", "split": "val"}, {"use": "loss", "split": "test"}]})
    options = only_run().options
    assert (options["evaluator.loss.split"], options["evaluator.1.split"]) == ("val", "test")


def test_the_last_evaluation_counts_not_the_best_and_every_metric_of_the_last_step() -> None:
    run = make_listed_run("a/one", loss=4.0, step=20)
    with run.metrics.open("a", encoding="utf-8") as file:
        file.write('{"step": 22, "tokens": 1760, "seconds": 9.5, "train/loss": 2.0, "optim/lr": 0.5}\n')
        file.write('{"step": 22, "tokens": 1760, "seconds": 9.5, "val/loss": 4.5, "val/new": null}\n')
        file.write('{"step": 22, "tokens": 1760, "seconds": 9.5, "quality": 0.25}\n')
        file.write('{"step": 23, "tokens": 1840, "seconds": 9.75, "train/loss": 1.5}\n{"step": 24, "tok')
    row = only_run()
    assert row.metrics == {"val/loss": 4.5, "val/new": None, "quality": 0.25, "train/loss": 1.5}
    assert (row.step, row.evaluated_step, row.tokens, row.seconds) == (23, 22, 1840, 9.75)


def test_the_note_is_the_newest_else_that_of_the_experiment() -> None:
    run = make_listed_run("a/one", {"note": "of the file"})
    assert only_run().note == "of the file"
    add_note(run.path, "first")
    add_note(run.path, "second")
    assert only_run().note == "second"


def test_damaged_files_leave_their_values_empty() -> None:
    run = make_listed_run("a/one")
    for name in ("experiment.toml", "status.json", "metrics.jsonl", "provenance.json", "notes.jsonl"):
        (run.path / name).write_bytes(b'{"format": 2, "started": 3, "name": [[')
    row = only_run()
    assert (row.state, row.cause, row.experiment, row.options, row.metrics) == (
        "interrupted",
        "unreadable",
        "a",
        {},
        {},
    )


@pytest.mark.parametrize(
    ("origin", "state", "is_whole"),
    [
        ({}, "finished", True),
        ({}, "interrupted", False),
        ({"branched_from": {"checkpoint": "runs/b/checkpoints/step-00000010", "sha256": ""}}, "finished", False),
        ({"init_from": {"checkpoint": "runs/b/checkpoints/step-00000010", "sha256": ""}}, "finished", False),
        ({"tokenizer_from": {"checkpoint": "runs/b/checkpoints/step-00000010", "fingerprint": ""}}, "finished", True),
        ({"changed_at_step": 4}, "finished", False),
    ],
)
def test_a_run_is_whole_if_it_finished_as_it_began(origin: dict[str, object], state: str, is_whole: bool) -> None:
    make_listed_run("a/one", state=state, **origin)
    assert only_run().is_whole is is_whole


# The cache


def test_nothing_is_read_again_while_no_file_changes(reads: list[str]) -> None:
    runs = [make_old(make_listed_run(f"a/{name}", started=f"2026-01-0{name}T00:00:00Z")) for name in "123"]
    first = index_runs()
    assert len(reads) == 3
    assert index_runs() == first
    assert len(reads) == 3
    add_note(runs[1].path, "new")
    assert [run.note for run in index_runs()] == ["", "new", ""]
    assert reads[3:] == ["a/2"]


def test_a_file_that_changed_a_moment_ago_is_read_again(reads: list[str]) -> None:
    """It may change again without another time or size."""
    run = make_listed_run("a/one", loss=2.5)
    assert only_run().metrics["val/loss"] == 2.5
    before = run.metrics.stat()
    run.metrics.write_text(run.metrics.read_text().replace("2.5", "3.5"))
    os.utime(run.metrics, ns=(before.st_mtime_ns, before.st_mtime_ns))
    assert only_run().metrics["val/loss"] == 3.5


@pytest.mark.parametrize("name", ["experiment.toml", "status.json", "metrics.jsonl", "provenance.json"])
def test_a_change_of_each_file_shows(name: str) -> None:
    run = make_old(make_listed_run("a/one", state="interrupted", configuration="c1"))
    before = only_run()
    path = run.path / name
    text = (
        path.read_text()
        .replace("interrupted", "failed")
        .replace("2.5", "2.125")
        .replace("c1", "c22")
        .replace("gelu", "relu2")
    )
    path.write_text(text)
    os.utime(path, (10**9, 10**9))
    assert only_run() != before


def test_another_content_of_the_same_size_and_time_shows() -> None:
    run = make_old(make_listed_run("a/one", loss=2.5))
    assert only_run().metrics["val/loss"] == 2.5
    run.metrics.write_text(run.metrics.read_text().replace("2.5", "3.5"))
    make_old(run)
    assert only_run().metrics["val/loss"] == 3.5


def test_dates_and_infinity_in_options_are_texts() -> None:
    run = make_old(make_listed_run("a/one"))
    lines = "day = 2026-01-02\nlimits = [inf, 1.5, [-inf]]\nat = 2026-01-02T03:04:05Z\n"
    run.experiment.write_text(f"{lines}[train]\nmax_seconds = nan\n[[sampler]]\nuse = 07:32:00\n")
    first = only_run()
    assert first.options == {
        "day": "2026-01-02",
        "limits": ["inf", 1.5, ["-inf"]],
        "at": "2026-01-02 03:04:05+00:00",
        "train.max_seconds": "nan",
        "sampler": ["07:32:00"],
    }
    assert only_run() == first


def test_removed_and_replaced_runs_show(reads: list[str]) -> None:
    first, second = make_old(make_listed_run("a/one")), make_old(make_listed_run("a/two", loss=3.5))
    index_runs()
    shutil.rmtree(first.path)
    second.path.rename(first.path)
    row = only_run()
    assert (row.reference, row.metrics["val/loss"]) == ("a/one", 3.5)


def cache() -> Path:
    return cache_file(os.path.abspath(runs_root()))


def damage_middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    at = content.index(b"2.5")
    content[at : at + 3] = b"9.9"  # still JSON
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "deleted": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "another number": damage_middle,
    "not JSON": lambda path: path.write_bytes(os.urandom(1000)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "unreadable": lambda path: path.chmod(0),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_does_no_harm(damage: str) -> None:
    make_old(make_listed_run("a/one", loss=2.5))
    before = index_runs()
    DAMAGES[damage](cache())
    assert index_runs() == before
    assert index_runs() == before


def test_a_cache_of_other_code_is_not_used(reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    make_old(make_listed_run("a/one"))
    index_runs()
    monkeypatch.setattr(index, "identity_of", lambda top: [top, "other code"])
    index_runs()
    assert reads == ["a/one", "a/one"]


def test_a_runs_folder_and_a_cache_that_cannot_be_written_are_enough(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make_old(make_listed_run("a/one"))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    runs_root().chmod(0o555)
    try:
        assert references() == ["a/one"]
        assert [path.name for path in runs_root().iterdir()] == ["a"]
    finally:
        runs_root().chmod(0o755)


INDEX = """
import sys
from nanogpt_kit.runs.index import index_runs
for _ in range(30):
    runs = index_runs()
    assert [run.reference for run in runs] == [f"a/{number}" for number in range(8)], runs
    assert all(run.metrics["val/loss"] == 2.5 for run in runs), runs
"""


def test_processes_that_write_it_at_once_all_list_the_truth() -> None:
    for number in range(8):
        make_old(make_listed_run(f"a/{number}", started=f"2026-01-02T00:00:0{number}Z"))
    processes = [subprocess.Popen([sys.executable, "-c", INDEX], stderr=subprocess.PIPE, text=True) for _ in range(3)]
    deadline = time.monotonic() + 60
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        cache().unlink(missing_ok=True)
        time.sleep(0.002)
    assert [(process.communicate()[1], process.returncode) for process in processes] == [("", 0)] * 3
    assert not list((cache_dir() / "runs").glob(".*"))


# Running runs


def test_whether_a_running_run_lives_is_never_cached(
    holder: Callable[[Path], AbstractContextManager[subprocess.Popen[str]]],
) -> None:
    run = make_old(make_listed_run("a/one", state="running"))
    with holder(run.path / "lock"):
        assert only_run().state == "running"
        assert only_run().state == "running"
    row = only_run()
    assert (row.state, row.cause) == ("interrupted", "died")


def test_one_run_is_read_as_in_the_index_wherever_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run("tiny", evaluations=losses(s20=2.5))
    assert read_run(run) == only_run()
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run.path, tmp_path / "elsewhere")
    row = read_run(type(run)(Path("elsewhere")))
    assert (row.reference, row.metrics) == ("elsewhere", {"val/loss": 2.5})


@pytest.mark.slow
def test_5000_runs_are_listed_within_a_second_the_second_time() -> None:
    """Measured on two cores of an AMD EPYC: 2.3 s, then 0.63 s for the whole command; the bound is generous."""
    first = make_listed_run("a/0000")
    for number in range(1, 5000):
        folder = runs_root() / f"e{number % 50}" / f"{number:04}"
        shutil.copytree(first.path, folder)
        toml = (folder / "experiment.toml").read_text()
        (folder / "experiment.toml").write_text(toml.replace("lr = 0.001", f"lr = {number / 1e6}"))
    time.sleep(2.1)  # until the files count as settled
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        command = [sys.executable, "-m", "nanogpt_kit", "runs", "list", "--json"]
        answer = subprocess.run(command, capture_output=True, check=True)
        seconds.append(time.perf_counter() - start)
        assert len(json.loads(answer.stdout)) == 5000
    assert min(seconds[1:]) < 3, seconds
