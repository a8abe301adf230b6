"""Reading what somebody else may have made: only regular files, and only so much of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nanogpt_kit.core import toml
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.system.reading import read_bytes, read_text

ENDLESS = Path("/dev/zero")


def test_a_regular_file_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes("☃\r\n".encode() * 400_000)  # more than a piece
    assert read_bytes(path) == path.read_bytes()
    assert read_text(path) == "☃\r\n" * 400_000


def test_a_link_to_a_regular_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"text")
    (tmp_path / "link").symlink_to("file")
    assert read_bytes(tmp_path / "link") == b"text"


def test_a_file_is_read_up_to_the_limit_of_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_bytes(path, limit=5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        read_bytes(path, limit=4)


@pytest.fixture(params=["fifo", "device", "folder", "link to a device"])
def no_file(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / "odd.toml"
    if request.param == "fifo":
        os.mkfifo(path)
    elif request.param == "folder":
        path.mkdir()
    elif request.param == "device":
        return ENDLESS
    else:
        path.symlink_to(ENDLESS)
    return path


def test_what_is_not_a_regular_file_is_refused_at_once(no_file: Path) -> None:
    with pytest.raises(OSError, match=r"not a regular file|directory") as caught:
        read_bytes(no_file)
    assert caught.value.filename == str(no_file)
    assert caught.value.strerror


def test_toml_is_read_from_regular_files_only(no_file: Path) -> None:
    with pytest.raises(KitError, match=str(no_file)):
        toml.read_toml_file(no_file)


def test_what_a_file_extends_is_a_regular_file(tmp_path: Path, no_file: Path) -> None:
    path = tmp_path / "exp.toml"
    path.write_text(f'extends = "{no_file}"\n')
    with pytest.raises(KitError, match=str(no_file)):
        toml.read_extended_files(path)
