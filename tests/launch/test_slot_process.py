"""Processes that keep to a machine slot."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nanogpt_kit.launch import slots
from nanogpt_kit.launch.slot_process import SlotProcess
from nanogpt_kit.launch.slots import MachineSlot, hold_slots

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """What runs in place of `python -m nanogpt_kit ARGUMENTS`."""

    def given(code: str) -> None:
        program = tmp_path / "python"
        program.write_text(f"#!{sys.executable} -S\n{code}\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))

    return given


def ended(child: SlotProcess) -> int:
    deadline = time.monotonic() + 20
    while (code := child.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return code


@linux
def test_a_process_has_the_cores_and_the_environment_of_its_slot(python: Callable[[str], None], tmp_path: Path) -> None:
    mine = slots.available_cores()
    python(
        "import os, sys, time\n"
        f"while os.sched_getaffinity(0) != {{{mine[-1]}}}: time.sleep(0.01)\n"
        "print(os.environ['OMP_NUM_THREADS'], os.environ['CUDA_VISIBLE_DEVICES'], sys.argv[1:], [sys.stdin.read()])"
    )
    slot = MachineSlot(0, gpus=("3",), cores=(mine[-1],), threads=1)
    child = SlotProcess(["run", "x"], slot, tmp_path / "log")
    assert os.sched_getaffinity(child.process.pid) == {mine[-1]}
    assert os.sched_getaffinity(0) == set(mine), "not ours"
    assert ended(child) == 0
    assert child.last_line() == "1 3 ['-P', '-m', 'nanogpt_kit', 'run', 'x'] ['']"


@pytest.mark.parametrize(
    ("told", "line"),
    [
        ("run tiny\nstep 3\nerror: x = 3 cannot be", "error: x = 3 cannot be"),
        ("Traceback (most recent call last):\n  ...\nKeyError: 'x'\n\n", "KeyError: 'x'"),
        ("caf\\xe9", "caf\ufffd"),
        ("", ""),
    ],
)
def test_the_last_line_of_a_process_is_for_people(
    python: Callable[[str], None], tmp_path: Path, told: str, line: str
) -> None:
    (tmp_path / "said").write_bytes(told.encode().replace(b"\\xe9", b"\xe9"))
    python(f"import sys; sys.stderr.buffer.write(open({str(tmp_path / 'said')!r}, 'rb').read())")
    log = tmp_path / "log"
    log.write_text("error: of the process before\n")
    child = SlotProcess([], MachineSlot(0), log)
    assert ended(child) == 0
    assert child.last_line() == line
    assert log.read_text(errors="replace").startswith("error: of the process before\n")


LEAVES = """\
import os, sys
if sys.argv[-1] == "fail":
    with open(os.environ["NANOGPT_KIT_FAILURE"], "w") as file:
        file.write('{"format": 2, "cause": "oom", "reason": "3 GB"}')
"""


def test_a_process_may_leave_a_record_of_its_failure_and_that_of_the_one_before_it_is_gone(
    python: Callable[[str], None], tmp_path: Path
) -> None:
    python(LEAVES)
    child = SlotProcess(["fail"], MachineSlot(0), tmp_path / "log")
    ended(child)
    found = child.failure()
    assert found is not None
    assert (found.cause, found.reason) == ("oom", "3 GB")
    child = SlotProcess([], MachineSlot(0), tmp_path / "log")
    ended(child)
    assert child.failure() is None
    child.failure_file.write_text("{")
    assert child.failure() is None


def test_a_process_that_has_ended_may_be_asked_to_end(python: Callable[[str], None], tmp_path: Path) -> None:
    python("")
    child = SlotProcess([], MachineSlot(0), tmp_path / "log")
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
    child = SlotProcess([], MachineSlot(0), log)
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
from nanogpt_kit.launch.slot_process import SlotProcess
from nanogpt_kit.launch.slots import MachineSlot

child = SlotProcess(sys.argv[2:], MachineSlot(0), Path(sys.argv[1]))
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


def test_a_trial_does_not_inherit_the_locks_of_its_controller(
    monkeypatch: pytest.MonkeyPatch, python: Callable[[str], None], tmp_path: Path
) -> None:
    monkeypatch.setattr(slots, "available_cores", lambda: [10, 11])
    python("import time; time.sleep(60)")
    with hold_slots(2, "cpu"):
        child = SlotProcess([], MachineSlot(0), tmp_path / "log")
    with hold_slots(2, "cpu"):
        assert child.poll() is None
    child.kill()
