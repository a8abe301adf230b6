"""Files that a run writes: whole or not at all, inside its folder, and readable whatever is in them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from nanogpt_kit.runs import files
from nanogpt_kit.system import writing
from nanogpt_kit.system.reading import sha256_file
from nanogpt_kit.system.writing import write_atomically


def test_a_written_file_has_the_mode_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("precious")
    (tmp_path / "a").symlink_to("outside")
    write_atomically(tmp_path / "a", "new")
    assert (tmp_path / "outside").read_text() == "precious"
    assert (tmp_path / "a").read_text() == "new"
    assert not (tmp_path / "a").is_symlink()


def test_a_link_under_the_name_of_the_temporary_file_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outside").write_text("precious")
    monkeypatch.setattr(writing.secrets, "token_hex", lambda _: "0" * 16)  # were it guessed
    (tmp_path / f".a.{'0' * 16}.tmp").symlink_to("outside")
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "a", "new")
    assert (tmp_path / "outside").read_text() == "precious"


def test_the_temporary_name_cannot_be_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    rename = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: (names.append(self.name), rename(self, target))[1])
    for _ in range(2):
        write_atomically(tmp_path / "a", "text")
    assert names[0] != names[1]
    assert all(str(os.getpid()) not in name.split(".") for name in names)
    assert all(re.fullmatch(writing.TEMPORARY % "a", name) for name in names)


def test_only_temporary_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("precious")
    for name in (".a.0123456789abcdef.tmp", "a", ".a.tmp", ".hidden", "b.0123456789abcdef.tmp"):
        (tmp_path / name).write_text("text")
    (tmp_path / ".l.0123456789abcdef.tmp").symlink_to("outside")
    writing.remove_temporary_files(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"a", ".a.tmp", ".hidden", "b.0123456789abcdef.tmp", "outside"}
    assert (tmp_path / "outside").read_text() == "precious"


def test_temporary_files_of_one_file_are_removed_without_those_of_others(tmp_path: Path) -> None:
    mine, *others = ".a+b.0123456789abcdef.tmp", ".aab.0123456789abcdef.tmp", ".a+b.c.0123456789abcdef.tmp"
    for name in (mine, *others):
        (tmp_path / name).write_text("text")
    writing.remove_temporary_files(tmp_path, of="a+b")
    assert {path.name for path in tmp_path.iterdir()} == set(others)


def test_whether_a_folder_is_writable_is_tested_without_a_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "mkdir", None)
    files.check_writable(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())


def test_a_file_to_hash_is_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="not a regular file"):
        sha256_file(tmp_path / "fifo")
