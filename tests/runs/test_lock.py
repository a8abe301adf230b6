"""A lock excludes processes and threads alike, ends with its holder, and is looked at without being taken."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.runs import lock as lock_module
from nanogpt_kit.runs.lock import Lock, is_locked

Holder = Callable[[Path], AbstractContextManager[subprocess.Popen[str]]]

SETUP = """\
import sys, time
from pathlib import Path
from nanogpt_kit.runs import lock as module
from nanogpt_kit.runs.lock import Lock, is_locked

path, seconds = Path(sys.argv[1]), float(sys.argv[2])
if sys.argv[3] == "flock":
    module.fcntl.F_OFD_SETLK = module.fcntl.F_OFD_SETLKW = module.fcntl.F_OFD_GETLK = 9999
end, count, found = time.monotonic() + seconds, 0, 0
print(flush=True)
sys.stdin.readline()
while time.monotonic() < end:
    count += 1
"""
LOOKS = SETUP + "    found += is_locked(path)\nprint(count, found)\n"
STARTS = SETUP + "    with Lock(path):\n        found += is_locked(path)\nprint(count, found)\n"
kinds = pytest.mark.parametrize("kind", ["ofd", "flock"] if sys.platform == "linux" else ["flock"])


def side_by_side(path: Path, seconds: float, kind: str, *programs: str) -> list[tuple[int, int]]:
    """What processes that begin at the same time count."""
    pipe = subprocess.PIPE
    began = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(path), str(seconds), kind],
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            text=True,
        )
        for program in programs
    ]
    for process in began:
        assert process.stdout is not None
        process.stdout.readline()
    said = []
    for process in began:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in began:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        count, found = out.split()
        said.append((int(count), int(found)))
    return said


def test_a_lock_excludes_another_process_and_is_dropped_by_its_death(tmp_path: Path, holder: Holder) -> None:
    path = tmp_path / "lock"
    assert not is_locked(path)
    assert not path.exists()
    with holder(path) as process:
        assert is_locked(path)
        with pytest.raises(BlockingIOError, match="locked by another process"), Lock(path):
            pass
        process.kill()  # -9
        process.wait()
        assert not is_locked(path)
        with Lock(path):
            assert is_locked(path)
    assert not is_locked(path)


@kinds
def test_two_tests_of_a_lock_do_not_take_each_other_for_a_holder(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "lock"
    path.touch()
    for count, found in side_by_side(path, 0.4, kind, LOOKS, LOOKS, LOOKS):
        assert count > 10
        assert found == 0


@kinds
def test_acquiring_a_lock_while_others_test_it_never_fails(tmp_path: Path, kind: str) -> None:
    (count, found), *others = side_by_side(tmp_path / "lock", 0.4, kind, STARTS, LOOKS, LOOKS)
    assert count == found > 2
    assert all(looks > 2 for looks, _ in others)


def test_a_lock_excludes_other_threads_and_stays_when_another_file_of_its_name_is_closed(tmp_path: Path) -> None:
    path, refused = tmp_path / "lock", []

    def take() -> None:
        try:
            with Lock(path):
                pass
        except BlockingIOError:
            refused.append(True)

    with Lock(path):
        path.open("rb").close()
        thread = threading.Thread(target=take)
        thread.start()
        thread.join()
        assert refused == [True]
        assert is_locked(path)
    take()
    assert refused == [True]


def test_a_child_process_does_not_inherit_a_lock(tmp_path: Path) -> None:
    with Lock(tmp_path / "lock"):
        child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(30)"], close_fds=False)
    deadline = time.monotonic() + 10
    while is_locked(tmp_path / "lock") and time.monotonic() < deadline:  # the system closes its files a moment later
        time.sleep(0.01)
    found = child.poll(), is_locked(tmp_path / "lock")
    child.kill()
    child.wait()
    assert found == (None, False)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("stays", [True, False])  # within the block of the lock
def test_a_forked_process_does_not_keep_the_lock_of_a_parent_that_was_killed(tmp_path: Path, stays: bool) -> None:
    path = tmp_path / "lock"
    program = f"""
import os, sys, time
from pathlib import Path
from nanogpt_kit.runs.lock import Lock

def work():
    print(os.getpid(), flush=True)
    time.sleep(60)

with Lock(Path(sys.argv[1]), wait=True):
    if os.fork():
        time.sleep(60)
    elif {stays}:
        work()
work()
"""
    words = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        found = is_locked(path)
        parent.kill()
        parent.wait()
        left = is_locked(path)
        os.kill(child, 9)
    assert (found, left) == (True, False)


def test_a_waiting_lock_waits(tmp_path: Path, holder: Holder) -> None:
    entered = threading.Event()

    def wait() -> None:
        with Lock(tmp_path / "lock", wait=True):
            entered.set()

    with holder(tmp_path / "lock") as process:
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not entered.wait(0.2)
        assert process.stdin is not None
        process.stdin.close()  # it ends in order
        assert entered.wait(20)
        waiting.join()


def a_link(path: Path) -> None:
    path.symlink_to(path.parent / "elsewhere")
    (path.parent / "elsewhere").write_text("precious")


def a_link_to_nothing(path: Path) -> None:
    path.symlink_to(path.parent / "nothing")


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes")
@pytest.mark.parametrize("make", [a_link, a_link_to_nothing, a_pipe, Path.mkdir])
def test_what_is_not_a_file_is_neither_locked_nor_followed(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "lock"
    make(path)
    before = sorted(tmp_path.iterdir())
    began = time.monotonic()
    with pytest.raises(KitError, match=f"{path} cannot be locked"), Lock(path):
        pass
    with pytest.raises(KitError, match=f"{path} cannot be locked"):
        is_locked(path)
    assert time.monotonic() - began < 5
    assert sorted(tmp_path.iterdir()) == before
    if make is a_link:
        assert (tmp_path / "elsewhere").read_text() == "precious"


@pytest.mark.skipif(sys.platform == "win32", reason="flock")
def test_a_file_system_without_locks_is_named_and_not_taken_for_a_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(lock_module.fcntl, "fcntl", none)
    monkeypatch.setattr(lock_module.fcntl, "flock", none)
    with pytest.raises(KitError, match="cannot be locked: Function not implemented"), Lock(tmp_path / "lock"):
        pass


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir(mode=0o555)
    with pytest.raises(KitError, match="cannot be locked: Permission denied"), Lock(tmp_path / "folder" / "lock"):
        pass
