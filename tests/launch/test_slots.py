"""Shares of a machine, and processes that keep to them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.launch import slots
from nanogpt_kit.launch.slots import Child, Slot, share

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def cores(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(slots, "my_cores", lambda: list(range(10, 10 + count)))


def threads(slot: Slot) -> str:
    return dict(slot.environment)["OMP_NUM_THREADS"]


@pytest.mark.parametrize(("count", "workers"), [(8, 2), (8, 3), (7, 7), (64, 5)])
def test_slots_have_cores_of_their_own_and_as_many_each(
    monkeypatch: pytest.MonkeyPatch, count: int, workers: int
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores(monkeypatch, count)
    made = share(workers, "cpu")
    assert [slot.number for slot in made] == list(range(workers))
    used = [core for slot in made for core in slot.cores]
    assert len(used) == len(set(used)) == workers * (count // workers)
    assert {len(slot.cores) for slot in made} == {count // workers}
    assert {slot.threads for slot in made} == {count // workers}


def test_a_single_worker_has_the_whole_machine_as_a_run_of_its_own_would(monkeypatch: pytest.MonkeyPatch) -> None:
    assert share(1, "cpu") == [Slot(0)]
    assert Slot(0).threads is None
    assert share(1, "mps") == [Slot(0)]


@pytest.mark.parametrize(("workers", "nproc", "words"), [(5, 1, "a trial wants 1"), (2, 3, "a trial wants 3")])
def test_more_than_there_is_is_refused(monkeypatch: pytest.MonkeyPatch, workers: int, nproc: int, words: str) -> None:
    cores(monkeypatch, 4)
    with pytest.raises(KitError, match=f"sweep.workers = {workers}: there are 4 cores, and {words}"):
        share(workers, "cpu", nproc)
    with pytest.raises(KitError, match="there is one mps device"):
        share(2, "mps")


@pytest.mark.parametrize(
    ("said", "nproc", "told"),
    [("2", 1, "2"), ("9", 1, "4"), ("3", 2, "2"), ("1", 2, "1"), ("", 1, "4"), ("2,1", 1, "2"), ("many", 1, "4")],
)
def test_fewer_threads_may_be_asked_for_and_all_processes_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, said: str, nproc: int, told: str
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    cores(monkeypatch, 8)
    assert [threads(slot) for slot in share(2, "cpu", nproc)] == [told, told]


@pytest.mark.parametrize(
    ("said", "workers", "nproc", "told"),
    [
        (None, 1, 1, ["0,1,2,3"]),
        (None, 2, 1, ["0,1", "2,3"]),
        (None, 3, 1, ["0", "1", "2"]),
        (None, 2, 2, ["0,1", "2,3"]),
        ("6,4", 2, 1, ["6", "4"]),
        ("6, 4", 2, 1, ["6", "4"]),
        ("GPU-8932f937,GPU-d72de6e5", 2, 1, ["GPU-8932f937", "GPU-d72de6e5"]),
    ],
)
def test_gpus_are_divided_among_the_slots(
    monkeypatch: pytest.MonkeyPatch, said: str | None, workers: int, nproc: int, told: list[str]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if said is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    made = share(workers, "cuda", nproc)
    assert [dict(slot.environment)["CUDA_VISIBLE_DEVICES"] for slot in made] == told
    assert {slot.threads for slot in made} == {None}
    assert not any(slot.cores for slot in made)


@pytest.mark.parametrize(("said", "found"), [("0", 1), (None, 1), ("", 0)])
def test_more_workers_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch, said: str | None, found: int) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if said is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    with pytest.raises(KitError, match=f"sweep.workers = 2: there are {found} GPUs, and a trial wants 1"):
        share(2, "cuda")


# A process in a slot


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """What runs in place of `python -m nanogpt_kit ARGUMENTS`."""

    def given(code: str) -> None:
        program = tmp_path / "python"
        program.write_text(f"#!{sys.executable} -S\n{code}\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))

    return given


def ended(child: Child) -> int:
    deadline = time.monotonic() + 20
    while (code := child.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return code


@linux
def test_a_process_has_the_cores_and_the_environment_of_its_slot(python: Callable[[str], None], tmp_path: Path) -> None:
    mine = slots.my_cores()
    python(
        "import os, sys, time\n"
        f"while os.sched_getaffinity(0) != {{{mine[-1]}}}: time.sleep(0.01)\n"
        "print(os.environ['OMP_NUM_THREADS'], os.environ['CUDA_VISIBLE_DEVICES'], sys.argv[1:], [sys.stdin.read()])"
    )
    slot = Slot(0, (("OMP_NUM_THREADS", "1"), ("CUDA_VISIBLE_DEVICES", "3")), (mine[-1],))
    child = Child(["run", "x"], slot, tmp_path / "log")
    assert os.sched_getaffinity(child.process.pid) == {mine[-1]}
    assert os.sched_getaffinity(0) == set(mine), "not ours"
    assert ended(child) == 0
    assert child.last_words() == "1 3 ['-m', 'nanogpt_kit', 'run', 'x'] ['']"


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ("run tiny\nstep 3\nerror: x = 3 cannot be", "x = 3 cannot be"),
        ("run tiny\nrun failed: out of memory: no\n  room", "out of memory: no;   room"),
        ("run tiny\n2 errors:\na: 1\nb: 2", "2 errors:; a: 1; b: 2"),
        ("rank 1: run failed: out of memory: no room\ninterrupted", "out of memory: no room; interrupted"),
        ("rank 12: error: x = 3 cannot be", "x = 3 cannot be"),
        ("Traceback (most recent call last):\n  ...\nKeyError: 'x'\n\n", "KeyError: 'x'"),
        ("the loss of error: rates", "the loss of error: rates"),
        ("caf\\xe9", "caf\ufffd"),
        ("", ""),
    ],
)
def test_last_words_are_the_error_that_was_told(
    python: Callable[[str], None], tmp_path: Path, told: str, words: str
) -> None:
    (tmp_path / "said").write_bytes(told.encode().replace(b"\\xe9", b"\xe9"))
    python(f"import sys; sys.stderr.buffer.write(open({str(tmp_path / 'said')!r}, 'rb').read())")
    log = tmp_path / "log"
    log.write_text("error: of the process before\n")
    child = Child([], Slot(0), log)
    assert ended(child) == 0
    assert child.last_words() == words
    assert log.read_text(errors="replace").startswith("error: of the process before\n")


def test_a_process_that_has_ended_may_be_asked_to_end(python: Callable[[str], None], tmp_path: Path) -> None:
    python("")
    child = Child([], Slot(0), tmp_path / "log")
    ended(child)
    child.terminate()
    child.kill()


@linux
def test_a_killed_process_takes_with_it_what_it_has_started(python: Callable[[str], None], tmp_path: Path) -> None:
    python(
        "import signal, subprocess, time; signal.signal(15, signal.SIG_IGN)\n"
        "print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    )
    log = tmp_path / "log"
    child = Child([], Slot(0), log)
    deadline = time.monotonic() + 10
    while not log.read_text().endswith("\n"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.terminate()
    assert child.poll() is None
    child.kill()
    assert child.poll() == -signal.SIGKILL
    other = int(log.read_text())
    while is_alive(other):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


PARENT = """\
import sys, time
from pathlib import Path
from nanogpt_kit.launch.slots import Child, Slot

child = Child(sys.argv[2:], Slot(0), Path(sys.argv[1]))
print(child.process.pid, flush=True)
time.sleep(60)
"""


@linux
def test_a_run_ends_when_its_controller_is_killed(tiny: Path, tmp_path: Path) -> None:
    into, log = tmp_path / "into", tmp_path / "log"
    options = ["train.steps=1000000", "schedule=constant", "train.compile=off", "callback=[]"]
    words = ["run", str(tiny), *options, "evaluate.every_steps=1000000", f"--into={into}"]
    command = [sys.executable, "-c", PARENT, str(log), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        deadline = time.monotonic() + 60
        while not (into / "metrics.jsonl").exists():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        assert is_alive(child)
        parent.kill()
    deadline = time.monotonic() + 3
    while is_alive(child):
        assert time.monotonic() < deadline, "it outlives its controller"
        time.sleep(0.05)
