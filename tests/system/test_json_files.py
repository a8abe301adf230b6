"""JSON files hold any file name, and a damaged one is a ValueError."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nanogpt_kit.system.json_files import read_json, write_json


def test_json_keeps_file_names_that_are_not_utf8(tmp_path: Path) -> None:
    values = {"folder": os.fsdecode(b"dir\xff"), "text": "☃"}
    write_json(tmp_path / "a.json", values)
    assert read_json(tmp_path / "a.json") == values
    write_json(tmp_path / "b.json", {"text": "☃"})
    assert "☃" in (tmp_path / "b.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("content", [b"[" * 100_000, b"{", b"\xff", b"", b"1" * 10_000], ids=lambda c: repr(c[:4]))
def test_json_that_cannot_be_read_is_a_value_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"."):
        read_json(tmp_path / "a.json")


def test_json_is_read_from_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="not a regular file"):
        read_json(tmp_path / "fifo")
