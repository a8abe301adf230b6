"""`run --into FOLDER`: one run in one folder, however often it is called; and how a run's status says why it failed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nanogpt_kit.core.errors import KitError, LostRank, NotFinite, OutOfMemory, RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.train import run_log, session, trainer
from nanogpt_kit.train.world import World

QUIET = (
    "callback=[]",
    "sample.num_samples=0",
    "train.compile=off",
    "train.steps=4",
    "evaluate.every_steps=2",
    "checkpoint.every_steps=2",
)
Command = Callable[..., Any]


def steps(folder: Path) -> list[int]:
    return [line["step"] for line in read_metrics(folder / "metrics.jsonl") if "train/loss" in line]


@pytest.fixture
def into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # no repository, whose state takes time to write down
    return tmp_path / "deep" / "down" / "run"


def test_a_run_begins_in_the_folder_ends_there_and_is_not_made_twice(tiny: Path, into: Path, command: Command) -> None:
    told = command("run", tiny, *QUIET, f"--into={into}")
    assert (told.code, f"finished: {into}" in told.err) == (0, True), told.err
    assert steps(into) == [1, 2, 3, 4]
    before = {path: path.stat().st_mtime_ns for path in into.rglob("*")}
    told = command("run", tiny, *QUIET, f"--into={into}")
    assert (told.code, told.err.endswith(f"\nalready finished: {into}\n")) == (0, True)  # after a note
    assert before == {path: path.stat().st_mtime_ns for path in into.rglob("*")}
    assert not (tiny.parent / "runs" / "tiny").exists()


def test_an_interrupted_run_continues_exactly_in_its_folder(
    tiny: Path, into: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as there:
        there.setattr(trainer, "run_evaluators", raises(KeyboardInterrupt(), after=1))
        assert command("run", tiny, *QUIET, f"--into={into}").code == 130
    assert RunFolder(into).status().state == "interrupted"
    assert [path.name for path in (into / "checkpoints").iterdir()] == ["step-00000002"]
    told = command("run", tiny, *QUIET, f"--into={into}")
    assert (told.code, f"finished: {into}" in told.err) == (0, True), told.err
    whole = into.parent / "whole"
    assert command("run", tiny, *QUIET, f"--into={whole}").code == 0

    def losses(folder: Path) -> list[float]:
        return [line["train/loss"] for line in read_metrics(folder / "metrics.jsonl") if "train/loss" in line]

    assert losses(into) == losses(whole)


@pytest.mark.parametrize("left", [(), ("provenance.json",), ("provenance.json", "components", "dirty.patch")])
def test_a_folder_of_a_run_killed_before_its_start_is_used(
    tiny: Path, into: Path, command: Command, left: tuple[str, ...]
) -> None:
    into.mkdir(parents=True)
    for name in left:
        if name == "components":
            (into / name).mkdir()
            (into / name / "half.py").write_text("class")
        else:
            (into / name).write_text("{")
    (into / ".experiment.toml.123").write_text("half of it")
    told = command("run", tiny, *QUIET, f"--into={into}")
    assert told.code == 0, told.err
    assert steps(into) == [1, 2, 3, 4]


@pytest.mark.parametrize("other", ["notes.txt", "step-1/x", "metrics.jsonl"])
def test_a_folder_with_other_files_is_refused_and_stays_unchanged(
    tiny: Path, into: Path, command: Command, other: str
) -> None:
    (into / other).parent.mkdir(parents=True)
    (into / other).write_text("mine")
    told = command("run", tiny, *QUIET, f"--into={into}")
    assert (told.code, told.err.splitlines()[-1]) == (
        2,
        f"error: cannot run in {into}: it contains files that are not from a run",
    )
    assert [path.name for path in into.iterdir()] == [other.split("/")[0]]
    assert (into / other).read_text() == "mine"


def test_a_file_is_not_taken_for_a_folder(tiny: Path, tmp_path: Path, command: Command) -> None:
    (tmp_path / "file").write_text("mine")
    for place in ("file", "file/below"):
        told = command("run", tiny, *QUIET, f"--into={tmp_path / place}")
        assert told.code == 2
        assert "cannot make the run folder" in told.err


@pytest.mark.parametrize("done", [True, False])
def test_another_experiment_in_the_folder_is_refused(tiny: Path, into: Path, command: Command, done: bool) -> None:
    assert command("run", tiny, *QUIET, f"--into={into}").code == 0
    if not done:
        RunFolder(into).set_status("interrupted", step=4, total_steps=4)
    told = command("run", tiny, *QUIET, "optimizer.lr=0.5", f"--into={into}")
    assert told.code == 2
    assert all(part in told.err for part in ("optimizer.lr", "0.5", "0.003", "resumed"))


def test_a_folder_with_a_busy_run_is_refused(tiny: Path, into: Path, command: Command) -> None:
    assert command("run", tiny, *QUIET, f"--into={into}").code == 0
    RunFolder(into).set_status("running")
    with RunFolder(into).lock():
        told = command("run", tiny, *QUIET, f"--into={into}")
    assert told.code == 75
    assert f"{into} is being used by another process" in told.err


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_a_lock_that_is_not_a_file_is_refused_and_not_followed(
    tiny: Path, into: Path, tmp_path: Path, command: Command, kind: str
) -> None:
    assert command("run", tiny, *QUIET, f"--into={into}").code == 0
    RunFolder(into).set_status("running", step=4)
    (into / "lock").unlink()
    (into / "lock").mkdir() if kind == "folder" else (into / "lock").symlink_to(tmp_path / "elsewhere")
    told = command("run", tiny, *QUIET, f"--into={into}")
    assert told.code == 2
    assert f"error: {into / 'lock'} " in told.err
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("more", [("--resume",), ("--resume=runs/x",), ("--seeds=2",)])
def test_a_folder_is_that_of_one_run(tiny: Path, into: Path, command: Command, more: tuple[str, ...]) -> None:
    told = command("run", tiny, *QUIET, f"--into={into}", *more)
    assert told.code == 2
    assert "--into names the folder" in told.err
    assert not into.exists()


@pytest.mark.slow
def test_several_processes_run_in_the_folder_and_are_done_once(tiny: Path, into: Path, command: Command) -> None:
    words = ("run", tiny, *QUIET, "train.batch_tokens=64", f"--into={into}", "--nproc=2")
    assert command(*words).code == 0
    assert steps(into) == [1, 2, 3, 4]
    assert not (tiny.parent / "runs" / "tiny").exists()
    told = command(*words)
    assert (told.code, told.err) == (0, f"already finished: {into}\n")


# What the status says


def status_of(tiny: Path, into: Path, *overrides: str, told: type[BaseException] = RunFailed) -> tuple[Any, str]:
    with pytest.raises(told) as caught:
        session.run(Experiment.load(tiny, [*QUIET, *overrides]), into=into)
    return RunFolder(into).status(), str(caught.value)


def raises(error: BaseException, after: int = 0) -> Callable[..., Any]:
    left = [after]

    def act(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise error

    return act


MEMORY = (torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("can't allocate memory: 9 GB"))


@pytest.mark.parametrize("error", MEMORY)
def test_running_out_of_memory_in_a_step_is_reported(
    tiny: Path, into: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(trainer.Trainer, "accumulate", raises(error))
    status, words = status_of(tiny, into, told=OutOfMemory)
    assert (status.state, status.cause, status.reason) == ("failed", "oom", words)
    assert "step 1: out of memory with micro-batches of 2 windows" in words


@pytest.mark.parametrize("error", MEMORY)
def test_running_out_of_memory_in_an_evaluation_is_reported(
    tiny: Path, into: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(trainer, "run_evaluators", raises(error))
    status, words = status_of(tiny, into, told=OutOfMemory)
    assert (status.state, status.cause, status.reason) == ("failed", "oom", words)
    assert words.startswith("out of memory: ")
    assert "evaluate.batch_size" in words
    assert status.step == 2


@pytest.mark.parametrize("error", MEMORY)
def test_memory_that_runs_out_while_the_model_is_built_is_one_sentence_and_leaves_no_folder(
    tiny: Path, into: Path, monkeypatch: pytest.MonkeyPatch, command: Command, error: BaseException
) -> None:
    monkeypatch.setattr(trainer, "seed_everything", raises(error))
    told = command("run", tiny, *QUIET, f"--into={into}")
    assert told.code == 1
    assert told.err.splitlines()[-1].startswith("run failed: out of memory: ")
    assert "Traceback" not in told.err
    assert not into.exists()


def test_a_loss_that_is_not_finite_is_reported(tiny: Path, into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trainer.Trainer.accumulate
    monkeypatch.setattr(
        trainer.Trainer, "accumulate", lambda *of: {name: mean * float("nan") for name, mean in whole(*of).items()}
    )
    status, words = status_of(tiny, into, told=NotFinite)
    assert (status.state, status.cause, status.reason) == ("failed", "not_finite", words)
    assert "the loss is nan at step 1" in words


@pytest.mark.parametrize("error", [ValueError("a bug"), KitError("a mistake"), RunFailed("no room"), KeyError()])
def test_any_other_error_is_recorded_as_a_failure(
    tiny: Path, into: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(trainer, "run_evaluators", raises(error))
    status, words = status_of(tiny, into, told=type(error))
    cause = "refused" if isinstance(error, KitError) else "error"
    assert (status.state, status.ended_by, status.cause) == ("failed", "fault", cause)
    assert status.origin.startswith(f"{type(error).__name__} at ")
    assert status.reason == (words or repr(error))


def test_a_full_disk_is_reported(tiny: Path, into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_log.MetricsLog, "write", raises(OSError(28, "No space left on device")))
    status, words = status_of(tiny, into)
    assert (status.state, status.cause) == ("failed", "disk")
    assert "No space left on device" in status.reason
    assert str(into) in words


@pytest.mark.parametrize("state", ["finished", "interrupted"])
def test_only_a_failed_run_has_a_cause(tiny: Path, into: Path, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    if state == "interrupted":
        monkeypatch.setattr(trainer, "run_evaluators", raises(KeyboardInterrupt()))
        status, _ = status_of(tiny, into, told=KeyboardInterrupt)
    else:
        session.run(Experiment.load(tiny, QUIET), into=into)
        status = RunFolder(into).status()
    assert status.state == state
    assert (status.cause, status.ended_by) == (None, {"finished": "steps", "interrupted": "signal"}[state])


def test_a_rank_that_is_lost_is_the_reason_also_where_a_callback_noticed_it() -> None:
    technical = RuntimeError("[/pytorch/third_party/gloo/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:17")
    noticed = RunFailed("Averaging failed in step_finished: " + repr(technical))
    noticed.__cause__ = technical
    run: Any = SimpleNamespace(world=World(rank=1, size=3), first_step=0, step=6, folder="runs/x")
    for error in (technical, noticed):
        found = session.explain_failure(error, run)
        assert isinstance(found, LostRank)
        assert str(found) == "another process of the run was lost (rank 1 of 3 noticed it at step 6)"
    run.world = World()
    assert session.explain_failure(noticed, run) is noticed, "alone, a run has nobody to lose"
