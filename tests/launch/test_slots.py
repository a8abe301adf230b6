"""Shares of a machine, and processes that keep to them."""

from __future__ import annotations

import errno
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from nanogpt_kit.core.errors import Busy, KitError
from nanogpt_kit.launch import slots
from nanogpt_kit.launch.slots import Child, Slot, allocate_slots, hold_slots

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def cores(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(slots, "available_cores", lambda: list(range(10, 10 + count)))


def threads(slot: Slot) -> str:
    return dict(slot.environment)["OMP_NUM_THREADS"]


def gpus(made: Sequence[Slot]) -> list[str]:
    return [dict(slot.environment)["CUDA_VISIBLE_DEVICES"] for slot in made]


@pytest.mark.parametrize(("count", "workers"), [(8, 2), (8, 3), (7, 7), (64, 5)])
def test_slots_have_cores_of_their_own_and_as_many_each(
    monkeypatch: pytest.MonkeyPatch, count: int, workers: int
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores(monkeypatch, count)
    made = allocate_slots(workers, "cpu")
    assert [slot.number for slot in made] == list(range(workers))
    used = [core for slot in made for core in slot.cores]
    assert len(used) == len(set(used)) == workers * (count // workers)
    assert {len(slot.cores) for slot in made} == {count // workers}
    assert {slot.threads for slot in made} == {count // workers}


def test_a_single_worker_has_the_whole_machine_as_a_run_of_its_own_would(monkeypatch: pytest.MonkeyPatch) -> None:
    assert allocate_slots(1, "cpu") == [Slot(0)]
    assert Slot(0).threads is None
    assert allocate_slots(1, "mps") == [Slot(0)]


@pytest.mark.parametrize(("workers", "nproc", "words"), [(5, 1, "a trial wants 1"), (2, 3, "a trial wants 3")])
def test_more_than_there_is_is_refused(monkeypatch: pytest.MonkeyPatch, workers: int, nproc: int, words: str) -> None:
    cores(monkeypatch, 4)
    with pytest.raises(
        KitError, match=f"sweep.workers: {workers} at a time are too many: there are 4 cores, and {words}"
    ):
        allocate_slots(workers, "cpu", nproc)
    with pytest.raises(KitError, match="there is one mps device"):
        allocate_slots(2, "mps")


@pytest.mark.parametrize(
    ("said", "nproc", "told"),
    [("2", 1, "2"), ("9", 1, "4"), ("3", 2, "2"), ("1", 2, "1"), ("", 1, "4"), ("2,1", 1, "2"), ("many", 1, "4")],
)
def test_fewer_threads_may_be_asked_for_and_all_processes_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, said: str, nproc: int, told: str
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    cores(monkeypatch, 8)
    assert [threads(slot) for slot in allocate_slots(2, "cpu", nproc)] == [told, told]


@pytest.mark.parametrize(
    ("said", "workers", "nproc", "told"),
    [
        (None, 1, 1, ["0"]),
        (None, 2, 1, ["0", "1"]),
        (None, 1, 2, ["0,1"]),
        (None, 1, 3, ["0,1,2"]),
        (None, 2, 2, ["0,1", "2,3"]),
        ("6,4", 2, 1, ["6", "4"]),
        ("6, 4", 2, 1, ["6", "4"]),
        ("GPU-8932f937,GPU-d72de6e5", 2, 1, ["GPU-8932f937", "GPU-d72de6e5"]),
    ],
)
def test_a_slot_has_as_many_gpus_as_a_trial_has_processes(
    monkeypatch: pytest.MonkeyPatch, said: str | None, workers: int, nproc: int, told: list[str]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if said is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with hold_slots(workers, "cuda", nproc) as made:
        assert gpus(made) == told
    assert {slot.threads for slot in made} == {None}
    assert not any(slot.cores for slot in made)


@pytest.mark.parametrize(("said", "found"), [("0", 1), (None, 1), ("", 0)])
def test_more_workers_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch, said: str | None, found: int) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if said is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    with pytest.raises(
        KitError, match=f"sweep.workers: 2 at a time are too many: there are {found} GPUs, and a trial wants 1"
    ):
        allocate_slots(2, "cuda")


# Several programs on one machine


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """What runs in place of `python -m nanogpt_kit ARGUMENTS`."""

    def given(code: str) -> None:
        program = tmp_path / "python"
        program.write_text(f"#!{sys.executable} -S\n{code}\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))

    return given


@pytest.fixture
def eight_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)


def test_two_programs_have_gpus_of_their_own(eight_gpus: None) -> None:
    with hold_slots(1, "cuda") as one, hold_slots(2, "cuda", 2) as two, hold_slots(3, "cuda") as three:
        assert (gpus(one), gpus(two), gpus(three)) == (["0"], ["2,3", "4,5"], ["1", "6", "7"])
        assert [slot.number for slot in three] == [0, 1, 2]
        with pytest.raises(Busy, match=r"another sweep .* holds GPU 0-7; none is left: wait for it$"):
            hold_slots(1, "cuda").__enter__()
    with hold_slots(8, "cuda") as all_of_them:
        assert len(all_of_them) == 8


def test_a_refusal_holds_nothing_and_says_what_there_is(eight_gpus: None) -> None:
    with hold_slots(6, "cuda"):
        for _ in range(2):
            with pytest.raises(Busy, match="holds GPU 0-5; of 3 trials at a time there is room for 2: wait for it"):
                hold_slots(3, "cuda").__enter__()
        with hold_slots(1, "cuda", 2) as two:
            assert gpus(two) == ["6,7"]


def test_a_gpu_is_the_same_by_whatever_place_it_has_among_the_visible(
    eight_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hold_slots(2, "cuda"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,1,0")
        with hold_slots(1, "cuda") as other:
            assert gpus(other) == ["5"]
            with pytest.raises(Busy, match="holds GPU 5,1,0; none is left"):
                hold_slots(1, "cuda").__enter__()
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-GPU-5c89/1/0,0")
        with hold_slots(1, "cuda") as part:
            assert gpus(part) == ["MIG-GPU-5c89/1/0"]


def test_two_programs_never_pin_their_trials_to_the_same_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    cores(monkeypatch, 8)
    with hold_slots(2, "cpu") as one:
        assert one == allocate_slots(2, "cpu")
        with pytest.raises(Busy, match=r"sweep.workers: another sweep on this machine holds core 10-17; none is"):
            hold_slots(4, "cpu").__enter__()
    monkeypatch.setattr(slots, "available_cores", lambda: [10, 11, 12, 17])
    with hold_slots(2, "cpu"):
        cores(monkeypatch, 8)
        with pytest.raises(
            KitError, match=r"holds core 10-12,17; 4 are left \(13-16\): wait for it.* -c 13-16 nanogpt"
        ):
            hold_slots(4, "cpu").__enter__()
        monkeypatch.setattr(slots, "available_cores", lambda: [13, 14, 15, 16])
        with hold_slots(2, "cpu") as other:
            assert [slot.cores for slot in other] == [(13, 14), (15, 16)]


def test_a_single_worker_without_a_gpu_locks_nothing(tmp_path: Path) -> None:
    with hold_slots(1, "cpu") as one, hold_slots(1, "cpu") as two, hold_slots(1, "mps"):
        assert one == two == [Slot(0)]
    assert not (tmp_path / "state").exists()


def test_machines_that_share_a_home_have_cores_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    cores(monkeypatch, 2)
    with hold_slots(2, "cpu"):
        monkeypatch.setattr(platform, "node", lambda: "another/one")
        with hold_slots(2, "cpu"):
            pass


def test_a_state_folder_that_cannot_be_written_means_no_locks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("no folder")
    cores(monkeypatch, 2)
    with hold_slots(2, "cpu") as one, hold_slots(2, "cpu") as two:
        assert one == two == allocate_slots(2, "cpu")


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "no"), OSError(errno.EROFS, "read-only")])
def test_a_lock_that_cannot_be_made_is_none(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    cores(monkeypatch, 2)
    monkeypatch.setattr(Path, "open", lambda *_: (_ for _ in ()).throw(error))
    with hold_slots(2, "cpu") as one:
        assert one == allocate_slots(2, "cpu")


def test_a_file_system_without_locks_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    cores(monkeypatch, 2)
    no = OSError(errno.ENOLCK, "no locks available")
    monkeypatch.setattr("nanogpt_kit.runs.lock.acquire", lambda *_: (_ for _ in ()).throw(no))
    with hold_slots(2, "cpu") as one, hold_slots(2, "cpu") as two:
        assert one == two == allocate_slots(2, "cpu")


HOLDING = """\
import sys, time
from nanogpt_kit.launch import slots

slots.available_cores = lambda: [10, 11]
with slots.held(2, "cpu") as held:
    print(held[1].cores, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["kill", "end"])
def test_what_another_process_held_is_free_when_it_has_ended(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    cores(monkeypatch, 2)
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLDING], stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "(11,)\n"
        with pytest.raises(Busy, match="holds core 10-11; none is left"):
            hold_slots(2, "cpu").__enter__()
        if end == "kill":
            other.kill()
        other.communicate()
    with hold_slots(2, "cpu") as mine:
        assert [slot.cores for slot in mine] == [(10,), (11,)]


def test_of_two_that_begin_at_once_one_is_refused_and_never_both(tmp_path: Path) -> None:
    once = HOLDING.replace("sys.stdin.read()", "time.sleep(2)")
    pipe = subprocess.PIPE
    both = [subprocess.Popen([sys.executable, "-c", once], stdout=pipe, stderr=pipe, text=True) for _ in range(2)]
    told = [process.communicate(timeout=60) for process in both]
    assert sorted(out for out, _ in told) == ["", "(11,)\n"], told
    assert sum("another sweep on this machine holds core 10" in err for _, err in told) == 1, told


def test_a_trial_does_not_go_on_holding_what_its_controller_held(
    monkeypatch: pytest.MonkeyPatch, python: Callable[[str], None], tmp_path: Path
) -> None:
    cores(monkeypatch, 2)
    python("import time; time.sleep(60)")
    with hold_slots(2, "cpu"):
        child = Child([], Slot(0), tmp_path / "log")
    with hold_slots(2, "cpu"):
        assert child.poll() is None
    child.kill()


# A process in a slot


def ended(child: Child) -> int:
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
    slot = Slot(0, (("OMP_NUM_THREADS", "1"), ("CUDA_VISIBLE_DEVICES", "3")), (mine[-1],))
    child = Child(["run", "x"], slot, tmp_path / "log")
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
    child = Child([], Slot(0), log)
    assert ended(child) == 0
    assert child.last_line() == line
    assert log.read_text(errors="replace").startswith("error: of the process before\n")


LEAVES = """\
import os, sys
if sys.argv[-1] == "fail":
    with open(os.environ["NANOGPT_KIT_FAILURE"], "w") as file:
        file.write('{"format": 1, "cause": "oom", "reason": "3 GB"}')
"""


def test_a_process_may_leave_a_record_of_its_failure_and_that_of_the_one_before_it_is_gone(
    python: Callable[[str], None], tmp_path: Path
) -> None:
    python(LEAVES)
    child = Child(["fail"], Slot(0), tmp_path / "log")
    ended(child)
    found = child.failure()
    assert found is not None
    assert (found.cause, found.reason) == ("oom", "3 GB")
    child = Child([], Slot(0), tmp_path / "log")
    ended(child)
    assert child.failure() is None
    child.record.write_text("{")
    assert child.failure() is None


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
