"""notes.jsonl: dated remarks that no process loses."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.runs.notes import MAX_CHARACTERS, NOTES, add_note, read_notes


def test_notes_keep_their_order_date_and_characters(tmp_path: Path) -> None:
    before = time.time()
    texts = ["first", "zwei\nlines, \u2603", "\x1b[31mthird"]
    for text in texts:
        add_note(tmp_path, f"  {text} \n")
    notes = read_notes(tmp_path)
    assert [note.text for note in notes] == texts
    assert all(before <= note.time <= time.time() for note in notes)


def test_a_run_without_notes_has_none(tmp_path: Path) -> None:
    assert read_notes(tmp_path) == []


def test_a_damaged_line_costs_no_other_note(tmp_path: Path) -> None:
    add_note(tmp_path, "first")
    with (tmp_path / NOTES).open("ab") as file:
        file.write(b'{"time": 1, "text": 3}\n[]\n\xff\n{"time": 1e999, "tex')
    add_note(tmp_path, "last")
    assert [note.text for note in read_notes(tmp_path)] == ["first", "last"]


@pytest.mark.parametrize(("text", "part"), [(" \n", "empty"), ("x" * (MAX_CHARACTERS + 1), "10,001")])
def test_an_empty_and_an_endless_note_are_refused(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(KitError, match=part):
        add_note(tmp_path, text)
    assert not (tmp_path / NOTES).exists()


def test_a_link_in_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / NOTES).symlink_to(tmp_path / "other")
    with pytest.raises(KitError, match="cannot write"):
        add_note(tmp_path, "text")
    assert not (tmp_path / "other").exists()


def test_a_password_is_not_kept(tmp_path: Path) -> None:
    add_note(tmp_path, "from postgresql://me:secret@host/db")
    assert "secret" not in (tmp_path / NOTES).read_text()


ADD = """
import sys
from pathlib import Path
from nanogpt_kit.runs.notes import add_note
print("ready", flush=True)
sys.stdin.readline()
for number in range(100):
    add_note(Path(sys.argv[1]), f"{sys.argv[2]} {number}")
"""


def test_processes_that_add_notes_at_once_lose_none(tmp_path: Path) -> None:
    commands = [[sys.executable, "-c", ADD, str(tmp_path), name] for name in "abc"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for command in commands]  # type: ignore[call-overload]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    assert [(process.communicate()[0], process.returncode) for process in processes] == [("", 0)] * 3
    texts = [note.text for note in read_notes(tmp_path)]
    for name in "abc":
        assert [text for text in texts if text.startswith(name)] == [f"{name} {number}" for number in range(100)]


def test_a_note_that_would_make_the_file_too_large_to_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanogpt_kit.runs.notes.MAX_BYTES", 200)
    add_note(tmp_path, "x" * 60)
    with pytest.raises(KitError, match=r"notes\.jsonl is full, with \d+ bytes"):
        add_note(tmp_path, "x" * 100)
    assert [note.text for note in read_notes(tmp_path)] == ["x" * 60]
