"""Turns of a process of nanoGPT: its log marks the steps, and its failures are told in a sentence."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.bench import nanogpt_process as module
from nanogpt_kit.bench.nanogpt_process import TrainingTask, TurnLog, nanogpt_process
from nanogpt_kit.core.errors import RunFailed
from tests.bench.small_nanogpt import write_checkout


class Turns:
    """A connection whose parent grants turns of so many seconds, and then none."""

    def __init__(self, *seconds: float) -> None:
        self.seconds = list(seconds)
        self.sent: list[Any] = []

    def send(self, answer: Any) -> None:
        self.sent.append(answer)

    def recv(self) -> float:
        if not self.seconds:
            raise EOFError
        return self.seconds.pop(0)


def log_steps(log: TurnLog, count: int, seconds: float) -> None:
    for index in range(count):
        time.sleep(seconds)
        print(f"iter {index}: loss 4.1744, time 12.34ms, mfu 1.00%", file=log)


def test_steps_are_counted_and_timed_from_line_to_line_after_the_warmup() -> None:
    turns: Any = Turns(0.05, 0.0)
    log = TurnLog(turns)
    print("step 0: train loss 4.2, val loss 4.2\nnumber of parameters: 0.80M", file=log)
    log_steps(log, 2, 0.0)
    assert turns.sent == []
    with pytest.raises(EOFError):
        log_steps(log, 9, 0.02)
    ready, (steps, spent), (one, _) = turns.sent
    assert (ready, steps, one) == ("ready", 3, 1)
    assert 0.06 <= spent < 1


def training(folder: Path, **files: str) -> TrainingTask:
    return TrainingTask(write_checkout(folder, **files), "asleep", 3, {"dataset": "none"})


def test_variables_of_openmp_are_those_of_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are set before torch is loaded, whatever this process has."""
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    variables = "[os.environ.get(name) for name in ('OMP_WAIT_POLICY', 'OMP_NUM_THREADS')]"
    code = f"import os, sys\nraise ValueError({variables}, 'torch' in sys.modules, os.getcwd() == sys.path[0])"
    for waiting, policy in (("asleep", "passive"), ("default", None)):
        task = TrainingTask(write_checkout(tmp_path, train=code), waiting, 3, {})  # type: ignore[arg-type]
        with nanogpt_process(task) as process, pytest.raises(RunFailed) as failed:
            process.receive()
        assert f"ValueError: ([{policy!r}, '3'], False, True) (train.py:2)" in str(failed.value)
        assert not list(tmp_path.glob("__pycache__"))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"train": "import model", "model": "import nowhere"}, "No module named 'nowhere' (model.py:1)"),
        ({"train": "print('done')"}, "train.py has ended by itself"),
        ({"train": "raise SystemExit(3)"}, "SystemExit: 3 (train.py:1)"),
    ],
)
def test_an_error_in_its_files_is_told_with_its_line(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    with nanogpt_process(training(tmp_path, **files)) as process, pytest.raises(RunFailed) as failed:
        process.receive()
    assert expected in str(failed.value)
    assert str(tmp_path) in str(failed.value)


def test_a_killed_process_is_told(tmp_path: Path) -> None:
    lines = "\n".join(["import os, sys", *["print('iter 1: loss 1')"] * 3, "os.kill(os.getpid(), 9)"])
    with nanogpt_process(training(tmp_path, train=lines)) as process:
        assert process.receive() == "ready"
        with pytest.raises(RunFailed, match=r"killed \(signal 9; perhaps memory ran out"):
            process.turn(1.0)
        identity = process.process.pid
    assert identity is not None
    with pytest.raises(ProcessLookupError):
        os.kill(identity, 0)


def test_what_is_waited_for_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.01)
    caplog.set_level("INFO")
    task = training(tmp_path, train="import time\ntime.sleep(1)")
    with nanogpt_process(task) as process, pytest.raises(RunFailed):
        process.wait_until_ready()
    assert "has not printed 3 lines that begin with 'iter N: loss'" in caplog.text
