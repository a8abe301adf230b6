"""What a run reports of itself is typed, and what damaged or hostile files say is handled in one place."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from nanogpt_kit.core.errors import FAILURE, Busy, Fault, KitError, NotFinite, OutOfMemory, RunFailed
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.lock import Lock
from nanogpt_kit.runs.record import Unreadable
from nanogpt_kit.runs.status import Best, Failure, Status, cause_of, origin_of, record_failure


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def test_a_status_is_read_as_it_was_written(run: RunFolder) -> None:
    run.set_status(
        "failed", ended_by="fault", cause="oom", step=3, best=Best(step=2, value=1.5), reason="\u2603 \udcff"
    )
    found = run.status()
    assert (found.state, found.ended_by, found.cause, found.step) == ("failed", "fault", "oom", 3)
    assert found.best == Best(step=2, value=1.5)
    assert found.reason == "\u2603 \\udcff"
    written = json.loads((run.path / "status.json").read_text(encoding="utf-8"))
    assert written["format"] == 2
    assert "parameters" not in written


@pytest.mark.parametrize(
    "details",
    [
        {"state": "done"},
        {"ended_by": "boredom"},
        {"cause": "because"},
        {"step": -1},
        {"step": "3"},
        {"seconds": float("nan")},
        {"best": {"step": 1, "value": float("inf")}},
        {"unknown": 1},
    ],
)
def test_a_status_holds_only_what_it_may(details: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Status.model_validate({"state": "failed", **details})


def test_an_infinite_best_value_is_recorded_as_null() -> None:
    assert Best.of({}) is None
    assert Best.of({"step": 3, "value": -float("inf")}) == Best(step=3, value=None)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"[]", "unreadable"),
        (b"null", "unreadable"),
        (b'"running"', "unreadable"),
        (b'{"format": 2}', "unreadable"),
        (b'{"format": 2, "state": 3}', "unreadable"),
        (b'{"format": 2, "state": "finished", "seconds": "3"}', "unreadable"),
        (b'{"format": 2, "state": "finished", "seconds": NaN}', "unreadable"),
        (b'{"format": 2, "state": "finished", "best": [3]}', "unreadable"),
        (b'{"format": 2, "state": "finished", "\\u001b[2J": 3}', "unreadable"),
        (b'{"format": 2, "state": "finished", "reason": "\\ud800"}', "unreadable"),
        (b'{"format": 2, "state": "fini', "unreadable"),
        (b"", "unreadable"),
        (b"\x00", "unreadable"),
        (b"\xff\xfe{", "unreadable"),
        (b"[" * 200_000, "unreadable"),
        (b'{"a":' * 200_000, "unreadable"),
        (b'{"format": 2, "reason": "' + b"x" * (1 << 20) + b'"}', "unreadable"),
        (b"{}", "other_format"),
        (b'{"state": "finished"}', "other_format"),
        (b'{"format": 3, "state": "resting"}', "other_format"),
        (b'{"format": true, "state": "finished"}', "other_format"),
        (b'{"format": "1", "state": "finished"}', "other_format"),
    ],
)
def test_a_status_that_cannot_be_read_is_interrupted_with_the_reason(
    run: RunFolder, content: bytes, cause: str
) -> None:
    (run.path / "status.json").write_bytes(content)
    found = run.status()
    assert (found.state, found.cause) == ("interrupted", cause)
    assert found.reason.startswith("status.json")
    assert len(found.reason) < 500
    assert found.reason.isprintable()
    with pytest.raises(Unreadable):
        Status.read(run.path / "status.json")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("name", ["pipe", "folder", "device"])
def test_a_status_that_is_not_a_file_is_interrupted_with_the_reason(run: RunFolder, name: str) -> None:
    path = run.path / "status.json"
    {"pipe": os.mkfifo, "folder": Path.mkdir, "device": lambda path: path.symlink_to("/dev/zero")}[name](path)
    assert (run.status().state, run.status().cause) == ("interrupted", "unreadable")


def test_a_run_whose_lock_is_a_link_is_not_busy(run: RunFolder) -> None:
    run.set_status("running", step=3)
    (run.path / "lock").symlink_to(run.path / "elsewhere")
    with Lock(run.path / "elsewhere"):
        assert (run.status().state, run.status().step) == ("interrupted", 3)
        assert "it is a link" in run.status().reason


def test_a_run_that_ends_while_its_status_is_read_has_its_last_status(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes its last word and then drops its lock, between the two looks of another process."""
    run.set_status("running")

    def ends(path: Path) -> bool:
        run.set_status("finished", ended_by="steps", step=7)
        return False

    monkeypatch.setattr("nanogpt_kit.runs.folder.is_locked", ends)
    assert (run.status().state, run.status().step) == ("finished", 7)


# Why something failed


def raised(error: BaseException, before: BaseException | None = None, hidden: bool = False) -> BaseException:
    try:
        try:
            if before is not None:
                raise before
        except type(before) as first:  # type: ignore[misc]
            raise error from (None if hidden else first)
        raise error
    except BaseException as found:
        return found


FULL = OSError(errno.ENOSPC, "any words")


def causes() -> Iterator[tuple[BaseException, str]]:
    yield raised(RunFailed("out of memory: No space left on device; is at work in another process")), "error"
    yield raised(OutOfMemory("x")), "oom"
    yield raised(NotFinite("x")), "not_finite"
    yield raised(Busy("x")), "busy"
    yield raised(KitError("x")), "refused"
    yield raised(ValueError("x")), "error"
    yield raised(FULL), "disk"
    yield raised(RunFailed("x"), FULL), "disk"
    yield raised(KitError("x"), FULL, hidden=True), "disk"
    yield raised(OSError(errno.EROFS, "x")), "disk"
    yield raised(OSError(errno.ENOENT, "No space left on device")), "error"
    yield raised(OutOfMemory("x"), FULL), "oom"
    yield raised(type("Own", (RunFailed,), {"cause": "of a plugin"})("x")), "error"


@pytest.mark.parametrize(("error", "cause"), list(causes()))
def test_a_cause_is_found_by_error_types_and_never_by_messages(error: BaseException, cause: str) -> None:
    assert cause_of(error) == cause


def failing(number: int) -> BaseException:
    try:
        int(f"x{number}")
    except ValueError as error:
        return raised(RunFailed(f"step {number}: {error}"), error)
    raise AssertionError


def test_errors_of_one_place_have_one_origin_whatever_numbers_they_name() -> None:
    assert origin_of(failing(3)) == origin_of(failing(17))
    assert origin_of(failing(3)).startswith(f"ValueError at {Path(__file__).name}:")
    assert origin_of(failing(3)) != origin_of(raised(RunFailed("step 3")))
    one, other = (raised(KitError(Fault("is wrong", key))) for key in ("train.steps", "model.n_layer"))
    assert origin_of(one) != origin_of(other)


def test_a_command_leaves_a_record_of_its_failure_where_it_is_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_failure(raised(OutOfMemory("nobody asks")))
    monkeypatch.setenv(FAILURE, str(tmp_path / "failure.json"))
    record_failure(raised(OutOfMemory("3 GB for postgresql://me:12/34word@host/db")))
    record_failure(raised(RunFailed("the other ranks fail after it")))
    found = Failure.read(tmp_path / "failure.json")
    assert (found.cause, found.reason) == ("oom", "3 GB for postgresql://***@host/db")
    monkeypatch.setenv(FAILURE, str(tmp_path / "no" / "folder"))
    record_failure(raised(OutOfMemory("it cannot be written")))


def test_the_module_needs_no_torch() -> None:
    import subprocess

    code = "import sys, nanogpt_kit.runs.folder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
