"""The callback: trackio has each point of a run once, whatever happens to either, and no step waits for it."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from nanogpt_kit_trackio.mirror import Mirror
from nanogpt_kit_trackio.trackio import Tracker, Trackio
from nanogpt_kit_trackio.verb import trackio
from stored import lines_of, numbers_of, points_of, runs_of
from trackio.sqlite_storage import SQLiteStorage

from nanogpt_kit.testing.callback import CallbackConformance
from nanogpt_kit.testing.training import train_briefly

CALLBACK = 'callback=["trackio"]'


class TestTrackio(CallbackConformance):
    component = Trackio(wait_seconds=5.0)


def test_trackio_has_what_the_run_has_recorded(tmp_path: Path) -> None:
    run = train_briefly(tmp_path, CALLBACK)
    (stored,) = runs_of("tiny")
    assert stored.name == stored.id == run.path.name
    points = points_of("tiny", stored.name)
    assert numbers_of(points) == lines_of(run.path)
    (samples,) = [point["samples"]["_value"] for point in points if "samples" in point]
    written = (run.path / "samples.txt").read_text(encoding="utf-8").splitlines()[1:]
    assert samples.splitlines() == ["    " + line for line in written]
    config = {key: value for key, value in stored.config.items() if not key.startswith("_")}
    assert config.pop("status") == "finished"
    assert config == run.experiment.resolved()


def test_runs_that_differ_in_their_seed_alone_are_a_group(folder: Path) -> None:
    file = folder / "experiment.toml"
    text = file.read_text(encoding="utf-8")
    groups = []
    for before, after in (("", ""), ("seed = 1337", "seed = 7"), ("lr = 0.01", "lr = 0.02")):
        assert before in text
        file.write_text(text.replace(before, after), encoding="utf-8")
        groups.append(Mirror(folder, "").group())
    assert groups[0].startswith("tiny-")
    assert groups[0] == groups[1] != groups[2]


def test_a_trial_is_named_by_its_folder_in_the_sweep_and_two_of_the_same_name_stay_apart(
    folder: Path, tmp_path: Path
) -> None:
    for root in ("one", "two"):
        trial = tmp_path / root / "tiny" / "sweep" / "trial-0003-s1"
        shutil.copytree(folder, trial)
        Mirror(trial, "").reconcile("finished")
    stored = runs_of("tiny")
    assert [one.name for one in stored] == ["sweep/trial-0003-s1"] * 2
    assert len({one.id for one in stored}) == 2


KILLED = """
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from stored import points_of, runs_of
from nanogpt_kit.api import Callback, hookimpl

class Kill(Callback):
    is_tracker = True

    def build(self, run):
        return Killer()

class Killer:
    @hookimpl
    def logged(self, run, step):
        if step == 5 and not run.first_step:
            while not any(point["step"] == 5 for point in points_of("tiny", run.path.name)):
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGKILL)
"""
TRAIN = """
import sys
from pathlib import Path
from nanogpt_kit.testing.training import train_briefly
folder = Path(sys.argv[1])
train_briefly(folder, 'callback=["trackio", "kill"]', "train.steps=7", files=[folder / "kill.py"])
"""


def test_after_a_kill_and_a_resume_each_point_is_there_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kill.py").write_text(KILLED.format(tests=str(Path(__file__).parent)), encoding="utf-8")
    killed = subprocess.run([sys.executable, "-c", TRAIN, tmp_path], check=False, capture_output=True, timeout=60)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (stored,) = runs_of("tiny")
    assert [point["step"] for point in numbers_of(points_of("tiny", stored.name))] == [1, 2, 3, 4, 5]
    wait_for(lambda: runs_of("tiny")[0].config["status"] == "killed")

    from nanogpt_kit import Experiment, run

    for variable in ("RUNS", "DATA"):
        monkeypatch.setenv(f"NANOGPT_KIT_{variable}", str(tmp_path / variable.lower()))
    options = [f"components={[str(tmp_path / 'kill.py')]}", 'callback=["trackio", "kill"]', "train.steps=7"]
    resumed = run(Experiment.load(tmp_path / "tiny.toml", options, trust_code=True), resume=True, trust_code=True)
    (stored,) = runs_of("tiny")
    points = numbers_of(points_of("tiny", stored.name))
    assert points == lines_of(resumed.path)
    assert [point["step"] for point in points if "train/loss" in point] == [1, 2, 3, 4, 5, 6, 7]
    assert stored.config["status"] == "finished"


def wait_for(holds: Any) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class OfTracker:
    """A run, as far as the tracker uses it: the folder of one that was trained."""

    first_step = 0

    def __init__(self, path: Path) -> None:
        self.path = path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_briefly(tmp_path_factory.mktemp("trained")).path


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "tiny" / trained.name))


def test_a_writer_that_hangs_delays_neither_steps_nor_the_end(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    run: Any = OfTracker(folder)
    tracker = Tracker(Trackio(wait_seconds=0.3))
    tracker.run_started(run)
    process = tracker.process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    slowest = 0.0
    for _ in range(2000):
        start = time.perf_counter()
        tracker.logged(run)
        slowest = max(slowest, time.perf_counter() - start)
    assert slowest < 0.1  # seconds; another process may hold the cores for a while
    start = time.perf_counter()
    tracker.run_finished(run, "finished")
    assert time.perf_counter() - start < 2.0
    (sentence,) = caplog.messages
    assert f"nanogpt-kit trackio {folder}" in sentence
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait(20) == 0
    assert numbers_of(points_of("tiny", folder.name)) == lines_of(folder)


def test_a_writer_that_is_killed_is_reported_once_and_the_verb_writes_what_is_missing(
    folder: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    run: Any = OfTracker(folder)
    tracker = Tracker(Trackio())
    tracker.run_started(run)
    process = tracker.process
    assert process is not None
    process.kill()
    process.wait()
    for _ in range(3):
        tracker.logged(run)
    tracker.run_finished(run, "finished")
    (sentence,) = caplog.messages
    assert "exit code -9" in sentence
    assert f"`nanogpt-kit trackio {folder}`" in sentence
    assert runs_of("tiny") == []

    for _ in range(2):
        trackio.main([str(folder)], standalone_mode=False)
        assert numbers_of(points_of("tiny", folder.name)) == lines_of(folder)
    assert capsys.readouterr().out.splitlines() == [f"tiny/{folder.name}"] * 2


def test_a_folder_that_cannot_be_written_is_reported_and_the_run_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "file" / "trackio"))
    run = train_briefly(tmp_path, CALLBACK)
    assert run.status == "finished"
    sentences = [message for message in caplog.messages if "trackio" in message]
    assert len(sentences) == 2
    assert "trackio cannot be written: NotADirectoryError" in sentences[0]
    assert f"nanogpt-kit trackio {run.path}" in sentences[1]


FAILING = """
from nanogpt_kit.api import Callback, hookimpl

class Fail(Callback):
    def build(self, run):
        return Failing()

class Failing:
    @hookimpl
    def step_finished(self, run, step):
        if step == 2:
            raise ValueError("out of luck")
"""


def test_a_run_that_fails_is_marked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "fail.py"
    file.write_text(FAILING, encoding="utf-8")
    with pytest.raises(Exception, match="out of luck"):
        train_briefly(tmp_path, 'callback=["trackio", "fail"]', files=[file])
    (stored,) = runs_of("tiny")
    assert stored.config["status"] == "failed"
    (alert,) = stored.alerts()
    assert (alert["level"], alert["title"]) == ("error", "run failed")
    assert str(Path("tiny") / stored.name / "status.json") in alert["text"]


def test_a_project_can_be_named_and_a_name_that_trackio_refuses_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train_briefly(tmp_path, 'callback=[{use="trackio", project="other"}]', "train.steps=1")
    assert len(runs_of("other")) == 1
    assert SQLiteStorage.get_projects() == ["other"]
    with caplog.at_level(logging.WARNING):
        train_briefly(tmp_path, 'callback=[{use="trackio", project="registry-x"}]', "train.steps=1")
    assert "'registry-x' is not allowed" in caplog.text


def test_the_experiment_takes_two_shrunken_steps(tmp_path: Path) -> None:
    file = Path(__file__).parents[1] / "experiments" / "tracked.toml"
    text = tmp_path / "text.txt"
    small = ["model.n_layer=1", "model.n_embd=16", "model.n_head=2", "train.steps=2", "train.batch_tokens=128"]
    options = [f"dataset={{use='text', source='{text.as_posix()}'}}", "sample.num_samples=0", *small]
    run = train_briefly(tmp_path, *options, experiment=file)
    assert numbers_of(points_of("tracked", run.path.name)) == lines_of(run.path)
