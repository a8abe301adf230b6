"""How a command ends: its exit code, and the record that it leaves for the process that started it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit import __main__ as command
from nanogpt_kit.core.errors import FAILURE, Busy, KitError, LostRank, NotFinite, OutOfMemory, RunFailed
from nanogpt_kit.runs.status import Failure


def full_disk() -> KitError:
    error = KitError("cannot write the run folder")
    error.__cause__ = OSError(28, "any words")
    return error


@pytest.mark.parametrize(
    ("error", "code", "cause"),
    [
        (None, 0, None),
        (RunFailed("out of memory, at work in another process"), 1, "error"),
        (OutOfMemory("3 GB"), 1, "oom"),
        (NotFinite("the loss is nan"), 1, "not_finite"),
        (OSError(28, "any words"), 1, "disk"),
        (KitError("x = 3 cannot be"), 2, "refused"),
        (full_disk(), 2, "disk"),
        (Busy("the run is at work"), 75, "busy"),
        (KeyboardInterrupt(), 130, None),
    ],
)
def test_an_end_has_an_exit_code_and_a_failure_leaves_its_cause(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: BaseException | None, code: int, cause: str | None
) -> None:
    assert ended(monkeypatch, tmp_path, error) == code
    found = tmp_path / "failure.json"
    assert (Failure.read(found).cause if found.exists() else None) == cause


def test_a_fault_of_the_program_leaves_its_cause_and_its_traceback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ZeroDivisionError):
        ended(monkeypatch, tmp_path, ZeroDivisionError("a bug"))
    found = Failure.read(tmp_path / "failure.json")
    assert (found.cause, found.reason) == ("error", "a bug")
    assert found.origin.startswith(f"ZeroDivisionError at {Path(__file__).name}:")


def test_what_torch_says_of_a_lost_rank_is_shown_and_is_not_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command.time, "sleep", lambda seconds: None)
    error = LostRank("another process of the run was lost (rank 0 of 2 noticed it at step 3)")
    error.__cause__ = RuntimeError("[/pytorch/third_party/gloo/tcp/pair.cc:547] Connection closed by peer")
    assert ended(monkeypatch, tmp_path, error) == 1
    assert "pair.cc" in capsys.readouterr().err
    found = Failure.read(tmp_path / "failure.json")
    assert (found.cause, found.reason) == ("lost_rank", str(error))


def ended(monkeypatch: pytest.MonkeyPatch, folder: Path, error: BaseException | None) -> int:
    def cli(**options: Any) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(command, "cli", cli)
    monkeypatch.setenv(FAILURE, str(folder / "failure.json"))
    return command.run_command()


ABORTS_IN_TEARDOWN = """
import atexit, ctypes
from nanogpt_kit import __main__ as command

libc = ctypes.CDLL(None)
libc.__cxa_atexit(libc.abort, None, None)  # as a destructor of C++
atexit.register(print, "cleared away")
command.run_command = lambda: CODE
command.main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="calls glibc")
@pytest.mark.parametrize("code", [1, 75, 130])
def test_what_aborts_a_rank_while_python_is_torn_down_does_not_change_its_exit_code(code: int) -> None:
    words = [sys.executable, "-c", ABORTS_IN_TEARDOWN.replace("CODE", str(code))]
    found = subprocess.run(words, env={**os.environ, "WORLD_SIZE": "2"}, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (code, "cleared away\n"), found.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="ends by a signal")
def test_a_signal_while_dataclasses_are_made_ends_as_interrupted(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "from nanogpt_kit import __main__ as command\n"
        "command.cli = lambda **options: exec('raise KeyboardInterrupt')\n"
        "command.main()\n"
    )
    words = [sys.executable, "-m", "program"]
    found = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert (found.returncode, found.stderr.strip()) == (130, "interrupted")


INTERRUPTED_IN_TEARDOWN = """
import atexit, os, signal
from nanogpt_kit import __main__ as command

@atexit.register
def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
    print("cleared away", flush=True)

def run_command():
    print("the answer")
    return CODE

command.run_command = run_command
command.main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="ends by a signal")
@pytest.mark.parametrize(("code", "after"), [(0, "cleared away\n"), (2, "cleared away\n"), (130, "")])
def test_a_signal_after_the_command_has_ended_changes_neither_its_exit_code_nor_its_output(
    code: int, after: str
) -> None:
    words = [sys.executable, "-c", INTERRUPTED_IN_TEARDOWN.replace("CODE", str(code))]
    found = subprocess.run(words, capture_output=True, text=True)
    assert (found.returncode, found.stdout, found.stderr) == (code, f"the answer\n{after}", "")


def test_a_signal_while_another_is_handled_leaves_the_note_about_what_is_saved(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = KeyboardInterrupt("SIGINT"), KeyboardInterrupt()
    first.add_note("stopped at step 7")
    second.__context__ = first
    assert ended(monkeypatch, tmp_path, second) == 130
    assert capsys.readouterr().err.strip() == "stopped at step 7"
