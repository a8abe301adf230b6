"""Run folders: their status, lock and metrics survive whatever ends the process, and they say where they came from."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from nanogpt_kit.api import KitError
from nanogpt_kit.runs import folder, metrics
from nanogpt_kit.runs.find import find_run
from nanogpt_kit.runs.folder import RunFolder, new_run_folder, runs_root
from nanogpt_kit.system.reading import sha256_file

Holder = Callable[[Path], AbstractContextManager[subprocess.Popen[str]]]


def a_run(experiment: str = "tiny", seed: int = 7) -> RunFolder:
    run = new_run_folder(experiment, seed, fingerprint="print")
    run.experiment.write_text("")
    return run


# --- the folder -------------------------------------------------------------------------------------------------


def test_a_run_is_named_by_time_seed_and_hash() -> None:
    run = new_run_folder("tiny", seed=7, fingerprint="print")
    assert run.path.parent == runs_root() / "tiny"
    assert re.fullmatch(r"\d{8}-\d{9}-s7-[0-9a-f]{6}", run.path.name)
    assert run.path.is_dir()


def test_runs_of_the_same_second_have_names_in_the_order_of_their_start() -> None:
    paths = [new_run_folder("tiny", seed=7, fingerprint="print").path for _ in range(20)]
    assert paths == sorted(set(paths))


@pytest.mark.parametrize("file", ["runs", "runs/tiny"])
def test_runs_that_cannot_be_written_are_refused(tmp_path: Path, file: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    with pytest.raises(KitError, match=r"Not a directory|not a folder"):
        new_run_folder("tiny", seed=7, fingerprint="print")
    with pytest.raises(KitError, match=f"cannot write to {tmp_path}/runs/tiny"):
        folder.check_runs_writable("tiny")


def test_checking_whether_runs_can_be_written_leaves_nothing(tmp_path: Path) -> None:
    folder.check_runs_writable("tiny")
    assert list(tmp_path.iterdir()) == []


# --- finding it again -------------------------------------------------------------------------------------------


def test_a_run_is_found_by_its_folder_and_an_experiment_by_its_newest_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    oldest, middle, newest = (a_run("tiny", seed) for seed in (9, 8, 7))
    a_run("other")
    monkeypatch.chdir(tmp_path)
    assert find_run(str(oldest.path)).folder == oldest
    assert find_run(f"tiny/{oldest.path.name}").folder == oldest
    assert find_run("tiny").folder == newest
    assert find_run("runs/tiny").folder.path.absolute() == newest.path
    assert folder.runs_of_experiment(runs_root() / "tiny") == [oldest, middle, newest]


def test_the_newest_run_is_the_one_started_last_also_in_a_copy(tmp_path: Path) -> None:
    names = [a_run("tiny", seed).path.name for seed in (9, 8, 7)]
    for place in ("copy", "tiny"):
        for age, name in enumerate(reversed(names)):  # made, written and touched in the other order
            copy = tmp_path / place / name
            shutil.copytree(runs_root() / "tiny" / name, copy, dirs_exist_ok=True)
            os.utime(copy / "experiment.toml", (10**9 + age, 10**9 + age))
            os.utime(copy, (10**9 + age, 10**9 + age))
        assert [run.path.name for run in folder.runs_of_experiment(tmp_path / place)] == names


ORIGIN = {
    "format": 2,
    "command": "",
    "folder": "",
    "seed": 3,
    "fingerprint": "",
    "configuration": "",
    "code": "",
    "components": {},
    "distributions": {},
    "machine": {"host": "", "user": "", "system": "", "python": "", "cores": None},
}


@pytest.mark.parametrize(
    ("started", "place"),
    [
        ("2026-01-02T03:04:05Z", 0),
        ("2026-01-02T03:04:06Z", 1),
        ("2026-01-02T03:04:07Z", 2),
        (None, 0),  # no time that can be read
        ("whenever", 0),
        (7, 0),
    ],
)
def test_a_renamed_run_is_ordered_by_its_start_time(tmp_path: Path, started: object, place: int) -> None:
    for name in ("20260102-030405500-s1-aaaaaa", "20260102-030406500-s1-aaaaaa", "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "experiment.toml").touch()
    origin = {**ORIGIN, "started": started}
    (tmp_path / "mine" / "provenance.json").write_text(json.dumps(origin))
    expected = ["20260102-030405500-s1-aaaaaa", "20260102-030406500-s1-aaaaaa"]
    expected.insert(place, "mine")
    found = folder.runs_of_experiment(tmp_path)
    assert [run.path.name for run in found] == expected
    assert [run.seed() for run in found if run.path.name != "mine"] == [1, 1]
    assert RunFolder(tmp_path / "mine").seed() == (3 if isinstance(started, str) else None)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 100_000, None])
def test_a_run_whose_provenance_cannot_be_read_is_the_oldest(tmp_path: Path, content: bytes | None) -> None:
    a = tmp_path / "zz"
    a.mkdir()
    if content is not None:
        (a / "provenance.json").write_bytes(content)
    assert RunFolder(a).started() == ""
    assert RunFolder(a).seed() is None


def test_a_folder_that_is_not_a_run_is_skipped() -> None:
    run = a_run()
    new_run_folder("tiny", seed=8, fingerprint="killed before its experiment was written")
    assert find_run("tiny").folder == run


def test_an_unknown_run_is_told_the_nearest_experiment() -> None:
    with pytest.raises(KitError, match=r"no run 'tinny'.*There are no runs yet\."):
        find_run("tinny")
    a_run("tiny")
    a_run("owt-gpt2")
    with pytest.raises(KitError, match=r"no run 'tinny'.*did you mean 'tiny'\? Runs here: owt-gpt2, tiny\."):
        find_run("tinny")


# --- status -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["finished", "failed", "interrupted"])
def test_the_status_of_a_run_says_how_it_ended(state: str) -> None:
    run = a_run()
    run.set_status("running", step=3)
    run.set_status(state, step=9, reason="because \u2603")
    status = run.status()
    assert (status.state, status.step, status.reason) == (state, 9, "because \u2603")
    assert status.time > 1.7e9


def test_running_without_a_holder_reads_interrupted(holder: Holder) -> None:
    run = a_run()
    assert run.status().state == "interrupted"  # killed before its first word
    run.set_status("running", step=3)
    status = run.status()
    assert (status.state, status.step) == ("interrupted", 3)
    with holder(run.path / "lock") as process:
        assert run.status().state == "running"
        process.kill()
        process.wait()
        assert run.status().state == "interrupted"


def test_a_status_is_always_whole_to_its_readers() -> None:
    run = a_run()
    run.set_status("running", step=0)
    finished = threading.Event()

    def write() -> None:
        for step in range(150):
            run.set_status("finished", step=step, reason="x" * (step * 997 % 20_000))
        finished.set()

    writer = threading.Thread(target=write)
    writer.start()
    steps = [0]
    while not finished.is_set():
        steps.append(run.status().step)
    writer.join()
    assert steps == sorted(steps)
    assert len(set(steps)) > 2
    assert sorted(path.name for path in run.path.iterdir()) == ["experiment.toml", "status.json"]


def test_a_status_that_cannot_be_written_leaves_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_run()
    run.set_status("finished", step=3)
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("no space left on device")))
    with pytest.raises(OSError, match="no space"):
        run.set_status("failed", step=4)
    assert run.status().state == "finished"


def test_the_hash_of_a_file_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_file(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# --- metrics ----------------------------------------------------------------------------------------------------


def log_of(path: Path, *records: dict[str, float]) -> Path:
    log = metrics.MetricsLog(path)
    for record in records:
        log.write(record)
    return path


def test_metrics_are_read_as_they_were_written_and_appended_to(tmp_path: Path) -> None:
    first, second = {"step": 1, "train/loss": 0.1 + 0.2}, {"step": 2, "val/loss": 1e-300}
    log = metrics.MetricsLog(tmp_path / "m.jsonl")
    log.write(first)
    assert list(metrics.read_metrics(log.path)) == [first]  # while the run goes on
    log_of(log.path, second)
    assert list(metrics.read_metrics(log.path)) == [first, second]
    assert list(metrics.read_metrics(tmp_path / "none.jsonl")) == []


def test_values_that_are_not_finite_become_null(tmp_path: Path) -> None:
    path = log_of(tmp_path / "m.jsonl", {"step": 1, "a": float("nan"), "b": float("inf"), "c": -float("inf"), "d": 0.5})
    assert list(metrics.read_metrics(path)) == [{"step": 1, "a": None, "b": None, "c": None, "d": 0.5}]
    json.loads(path.read_text(), parse_constant=pytest.fail)


def test_an_incomplete_line_left_by_a_kill_is_skipped(tmp_path: Path) -> None:
    path = log_of(tmp_path / "m.jsonl", {"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.25})
    whole = path.read_bytes()
    first = whole.index(b"\n")
    for end in range(first + 1, len(whole) - 1):
        path.write_bytes(whole[:end])
        assert [record["step"] for record in metrics.read_metrics(path)] == [1]


def test_a_resumed_log_drops_the_lines_after_its_step(tmp_path: Path) -> None:
    path = log_of(tmp_path / "m.jsonl", *({"step": step, "loss": 1 / 3 + step} for step in range(1, 8)))
    with path.open("ab") as file:
        file.write(b'{"step": 8, "lo')
    metrics.truncate_metrics(path, 5)
    log_of(path, {"step": 6, "loss": float("nan")})
    expected = [*({"step": step, "loss": 1 / 3 + step} for step in range(1, 6)), {"step": 6, "loss": None}]
    assert list(metrics.read_metrics(path)) == expected
    assert path.read_text().endswith("}\n")
    metrics.truncate_metrics(path, 0)
    assert path.read_text() == ""


WHOLE = [b'{"step": %d, "train/loss": 2.5}\n' % step for step in range(1, 6)]


@pytest.mark.parametrize(
    "tail",
    [b"", b'{"step": 6, "trai', b'{"step": 6, "note": "\xe2\x98', b"\0" * 9, b"6", WHOLE[-1][:-1]],
    ids=["whole", "torn", "torn in a character", "zeros", "a number", "without its end"],
)
def test_an_incomplete_last_line_left_by_a_kill_is_dropped(
    tmp_path: Path, tail: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b"".join(WHOLE) + tail)
    expected = [json.loads(line) for line in (*WHOLE, *([tail] if tail.endswith(b"}") else []))]
    assert list(metrics.read_metrics(path)) == expected
    assert metrics.truncate_metrics(path, 5) == 5
    assert list(metrics.read_metrics(path)) == expected
    assert path.read_bytes().endswith(b"}\n")
    assert not caplog.records


DAMAGED = {
    "a quote": b'{"step: 3, "train/loss": 2.5}\n',
    "a list": b"[3]\n",
    "no step": b'{"train/loss": 2.5}\n',
    "a fraction": b'{"step": 3.0}\n',
    "a truth": b'{"step": true}\n',
    "below zero": b'{"step": -3}\n',
    "zeros": b"\0\0\0\0\n",
    "no text": b'{"step": 3, "note": "\xff"}\n',
    "two in one": b'{"step": 3}{"step": 4}\n',
    "deep": b"[" * 100_000 + b"\n",
    "long": b'{"step": ' + b"9" * 5000 + b"}\n",
    "backwards": b'{"step": 1}\n',
}


@pytest.mark.parametrize("at", [2, 4])  # in the middle, and the last one
@pytest.mark.parametrize("line", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_line_is_named_and_nothing_is_deleted(
    tmp_path: Path, line: bytes, at: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(whole := b"".join([*WHOLE[:at], line, *WHOLE[at + 1 :]]))
    with pytest.raises(KitError, match="repair or delete this line") as caught:
        metrics.truncate_metrics(path, 1)
    assert caught.value.faults[0].location == f"{path}:{at + 1}"
    assert path.read_bytes() == whole
    steps = [record["step"] for record in metrics.read_metrics(path)]
    tail = metrics.MetricsReader(path)
    assert [record["step"] for record in tail.new_records()] == steps
    shown = [step for step in range(1, 6) if step != at + 1]
    if line == DAMAGED["backwards"]:  # those who show it cannot know which of two lines is wrong
        assert steps == [*shown[:at], 1, *shown[at:]]
        return
    assert steps == shown
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}:{at + 1} is damaged and skipped",
        f"{path}:{at + 1} is damaged and skipped",
    ]


def test_a_damaged_line_after_two_kills_is_still_reported(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(WHOLE[0] + b'{"step": 2, "tr' + b"".join(WHOLE[2:]))
    with pytest.raises(KitError) as caught:
        metrics.truncate_metrics(path, 5)
    assert caught.value.faults[0].location == f"{path}:2"


def test_lines_without_text_are_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b"\r\n".join([WHOLE[0].strip(), b"", WHOLE[1].strip(), b""]))
    assert metrics.truncate_metrics(path, 5) == 2
    assert [record["step"] for record in metrics.read_metrics(path)] == [1, 2]


# --- the last evaluation ----------------------------------------------------------------------------------------


def test_the_last_evaluation_is_the_newest_line_with_a_finite_loss(tmp_path: Path) -> None:
    whole, path = {"step": 4, "val/loss": 2.5, "val/bits_per_byte": 3.5}, tmp_path / "m.jsonl"
    assert metrics.last_evaluation(path) == {}
    log_of(path, {"step": 2, "val/loss": 3.0}, {"step": 3, "train/loss": 1.0})
    assert metrics.last_evaluation(path) == {"step": 2, "val/loss": 3.0}
    log_of(path, whole, {"step": 5, "train/loss": 1.0}, {"step": 6, "val/loss": float("nan")}, {"step": 7, "x/loss": 1})
    assert metrics.last_evaluation(path) == whole
    assert metrics.last_evaluation(path, until_step=4) == whole
    assert metrics.last_evaluation(path, until_step=3) == {"step": 2, "val/loss": 3.0}
    assert metrics.last_evaluation(path, until_step=1) == {}


@pytest.mark.parametrize("value", ['"2.5"', "true", "null", "[2.5]", "{}", "1e999", "-1e999", "9" * 400, "NaN"])
def test_a_loss_that_is_no_finite_number_is_passed_over(tmp_path: Path, value: str) -> None:
    path = log_of(tmp_path / "m.jsonl", {"step": 2, "val/loss": 3.0})
    with path.open("a") as file:
        file.write(f'{{"step": 3, "val/loss": {value}}}\n')
    assert metrics.last_evaluation(path) == {"step": 2, "val/loss": 3.0}


@pytest.mark.parametrize("line", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_lines_are_passed_over_in_the_search_for_an_evaluation(tmp_path: Path, line: bytes) -> None:
    path = log_of(tmp_path / "m.jsonl", {"step": 2, "val/loss": 3.0})
    with path.open("ab") as file:
        file.write(line + line.replace(b"note", b"val/loss") + b'{"step": 9, "val/loss": 1.')  # killed while writing
    assert metrics.last_evaluation(path) == {"step": 2, "val/loss": 3.0}


@pytest.mark.parametrize("size", [1, 2, 7, 64, 1 << 16])
def test_lines_are_read_from_the_end_whatever_the_size_of_a_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(metrics, "CHUNK_BYTES", size)
    for content in (b"", b"\n", b"one", b"one\n", b"one\ntwo", b"\n\none\n\ntwo three\n", b"a\nbb\nccc\ndddd\n"):
        (tmp_path / "file").write_bytes(content)
        assert list(metrics.lines_from_the_end(tmp_path / "file")) == content.split(b"\n")[::-1]


def test_the_search_for_an_evaluation_ends_early_in_a_file_that_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, first = tmp_path / "m.jsonl", b'{"step": 2, "val/loss": 3.0}\n'
    path.write_bytes(first + b" " * 100 + b"\n")
    assert metrics.last_evaluation(path)["step"] == 2
    monkeypatch.setattr(metrics, "CHUNK_BYTES", 10)
    monkeypatch.setattr(metrics, "MAX_LINE", 50)
    assert metrics.last_evaluation(path) == {}
    path.write_bytes(first + b" \n" * 50)
    assert metrics.last_evaluation(path)["step"] == 2
    monkeypatch.setattr(metrics, "MAX_BYTES_BACK", 60)
    assert metrics.last_evaluation(path) == {}
    os.mkfifo(tmp_path / "fifo")
    for other in (tmp_path, tmp_path / "fifo", tmp_path / "none", Path("a\0b")):
        assert metrics.last_evaluation(other) == {}
