"""How a machine is divided into slots, and locked against other programs."""

from __future__ import annotations

import errno
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from nanogpt_kit.core.errors import Busy, KitError
from nanogpt_kit.launch import slots
from nanogpt_kit.launch.slots import MachineSlot, allocate_slots, hold_slots


def cores(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(slots, "available_cores", lambda: list(range(10, 10 + count)))


def gpus(slots: Sequence[MachineSlot]) -> list[str]:
    return [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots]


@pytest.mark.parametrize(("count", "workers"), [(8, 2), (8, 3), (7, 7), (64, 5)])
def test_slots_have_cores_of_their_own_and_as_many_each(
    monkeypatch: pytest.MonkeyPatch, count: int, workers: int
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores(monkeypatch, count)
    made = allocate_slots(workers, "cpu")
    assert [slot.index for slot in made] == list(range(workers))
    used = [core for slot in made for core in slot.cores]
    assert len(used) == len(set(used)) == workers * (count // workers)
    assert {len(slot.cores) for slot in made} == {count // workers}
    assert {slot.threads for slot in made} == {count // workers}


def test_a_single_worker_has_the_whole_machine_as_a_separate_run_has(monkeypatch: pytest.MonkeyPatch) -> None:
    assert allocate_slots(1, "cpu") == [MachineSlot(0)]
    assert MachineSlot(0).threads is None
    assert allocate_slots(1, "mps") == [MachineSlot(0)]


@pytest.mark.parametrize(("workers", "nproc"), [(5, 1), (2, 3)])
def test_more_slots_than_the_machine_has_are_refused(monkeypatch: pytest.MonkeyPatch, workers: int, nproc: int) -> None:
    cores(monkeypatch, 4)
    with pytest.raises(KitError, match=rf"^sweep\.workers: {workers} .* 4 cores, .* {nproc}$"):
        allocate_slots(workers, "cpu", nproc)
    with pytest.raises(KitError, match="one mps device"):
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
    assert [slot.environment for slot in allocate_slots(2, "cpu", nproc)] == [{"OMP_NUM_THREADS": told}] * 2


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
        ("3,2,1,0,9", 4, 1, ["3", "2", "1", "0"]),
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


def test_each_instance_of_a_divided_gpu_is_a_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA shows a process the first of them alone."""
    names = [f"MIG-{index}4a2d-{index}" for index in range(3)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(names))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert gpus(allocate_slots(3, "cuda")) == names


@pytest.mark.parametrize(("said", "found"), [("0", 1), (None, 1), ("", 0), ("0,7", 1), ("7,0", 0)])
def test_more_workers_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch, said: str | None, found: int) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if said is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    with pytest.raises(KitError, match=rf"^sweep\.workers: 2 .* {found} GPUs, .* 1$"):
        allocate_slots(2, "cuda")


# Several programs on one machine


@pytest.fixture
def eight_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)


def test_two_programs_have_gpus_of_their_own(eight_gpus: None) -> None:
    with hold_slots(1, "cuda") as one, hold_slots(2, "cuda", 2) as two, hold_slots(3, "cuda") as three:
        assert (gpus(one), gpus(two), gpus(three)) == (["0"], ["2,3", "4,5"], ["1", "6", "7"])
        assert [slot.index for slot in three] == [0, 1, 2]
        with pytest.raises(Busy, match=r"^sweep\.workers: another sweep .* GPU 0-7; none "):
            hold_slots(1, "cuda").__enter__()
    with hold_slots(8, "cuda") as all_of_them:
        assert len(all_of_them) == 8


def test_a_refused_sweep_locks_nothing_and_is_given_the_free_slots(eight_gpus: None) -> None:
    with hold_slots(6, "cuda"):
        for _ in range(2):
            with pytest.raises(Busy, match=r"GPU 0-5; .* room for 2 of 3 "):
                hold_slots(3, "cuda").__enter__()
        with hold_slots(1, "cuda", 2) as two:
            assert gpus(two) == ["6,7"]


def test_a_gpu_is_locked_by_its_own_id_whatever_its_index_among_the_visible(
    eight_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hold_slots(2, "cuda"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,1,0")
        with hold_slots(1, "cuda") as other:
            assert gpus(other) == ["5"]
            with pytest.raises(Busy, match="GPU 5,1,0; none"):
                hold_slots(1, "cuda").__enter__()
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-GPU-5c89/1/0,0")
        with hold_slots(1, "cuda") as part:
            assert gpus(part) == ["MIG-GPU-5c89/1/0"]


def test_two_programs_never_pin_their_trials_to_the_same_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    cores(monkeypatch, 8)
    with hold_slots(2, "cpu") as one:
        assert one == allocate_slots(2, "cpu")
        with pytest.raises(Busy, match=r"^sweep\.workers: another sweep .* core 10-17; none"):
            hold_slots(4, "cpu").__enter__()
    monkeypatch.setattr(slots, "available_cores", lambda: [10, 11, 12, 17])
    with hold_slots(2, "cpu"):
        cores(monkeypatch, 8)
        with pytest.raises(KitError, match=r"core 10-12,17; 4 are free \(13-16\).* taskset -c 13-16 nanogpt-kit"):
            hold_slots(4, "cpu").__enter__()
        monkeypatch.setattr(slots, "available_cores", lambda: [13, 14, 15, 16])
        with hold_slots(2, "cpu") as other:
            assert [slot.cores for slot in other] == [(13, 14), (15, 16)]


def test_a_single_worker_without_a_gpu_locks_nothing(tmp_path: Path) -> None:
    with hold_slots(1, "cpu") as one, hold_slots(1, "cpu") as two, hold_slots(1, "mps"):
        assert one == two == [MachineSlot(0)]
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
def test_a_lock_that_cannot_be_created_is_not_held(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    cores(monkeypatch, 2)
    monkeypatch.setattr(Path, "open", lambda *_: (_ for _ in ()).throw(error))
    with hold_slots(2, "cpu") as one:
        assert one == allocate_slots(2, "cpu")


def test_a_file_system_without_locks_counts_as_unlocked(monkeypatch: pytest.MonkeyPatch) -> None:
    cores(monkeypatch, 2)
    no = OSError(errno.ENOLCK, "no locks available")
    monkeypatch.setattr("nanogpt_kit.runs.lock.acquire_lock", lambda *_: (_ for _ in ()).throw(no))
    with hold_slots(2, "cpu") as one, hold_slots(2, "cpu") as two:
        assert one == two == allocate_slots(2, "cpu")


HOLDING = """\
import sys, time
from nanogpt_kit.launch import slots

slots.available_cores = lambda: [10, 11]
with slots.hold_slots(2, "cpu") as held:
    print(held[1].cores, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["kill", "end"])
def test_slots_of_another_process_are_free_once_it_has_ended(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    cores(monkeypatch, 2)
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-Pc", HOLDING], stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "(11,)\n"
        with pytest.raises(Busy, match="core 10-11; none"):
            hold_slots(2, "cpu").__enter__()
        if end == "kill":
            other.kill()
        other.communicate()
    with hold_slots(2, "cpu") as mine:
        assert [slot.cores for slot in mine] == [(10,), (11,)]


def test_of_two_that_begin_at_once_one_is_refused_and_never_both(tmp_path: Path) -> None:
    pipe: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    both = [subprocess.Popen([sys.executable, "-Pc", HOLDING], text=True, **pipe) for _ in range(2)]
    deadline = time.monotonic() + 60
    while all(process.poll() is None for process in both):  # the one that is refused ends, the other waits for us
        assert time.monotonic() < deadline
        time.sleep(0.02)
    told = [process.communicate(timeout=60) for process in both]
    assert sorted(out for out, _ in told) == ["", "(11,)\n"], told
    assert sum("another sweep or comparison on this machine uses core 10-11" in err for _, err in told) == 1, told
