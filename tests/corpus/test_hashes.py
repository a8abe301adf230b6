"""Hashes of files: right, remembered for large ones only, and never for one that may have changed unseen."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nanogpt_kit.api import KitError, content_hash
from nanogpt_kit.corpus import hashes

OLD = time.time() - 3600


@pytest.fixture(autouse=True)
def large_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "CACHED_FROM_BYTES", 1000)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were hashed."""
    paths: list[Path] = []
    hashed = hashes.sha256_file
    monkeypatch.setattr(hashes, "sha256_file", lambda path: paths.append(path) or hashed(path))
    return paths


def file(path: Path, content: bytes, modified: float = OLD) -> Path:
    path.write_bytes(content)
    os.utime(path, (modified, modified))
    return path


@pytest.mark.parametrize("size", [0, 999, 1000, 3_000_000])
def test_it_is_the_sha256_file_the_content(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    path = file(tmp_path / "a", content)
    for _ in range(2):
        assert content_hash(path) == content_hash(str(path)) == hashlib.sha256(content).hexdigest()


def test_a_large_file_is_hashed_once_from_wherever_it_is_named(
    tmp_path: Path, read: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    large, small = file(tmp_path / "large", b"x" * 1000), file(tmp_path / "small", b"x" * 999)
    monkeypatch.chdir(tmp_path)
    for path in (large, Path("large"), small, small):
        content_hash(path)
    assert read == [large, small, small]


@pytest.mark.parametrize("change", ["size", "time", "inode"])
def test_a_file_that_changed_is_hashed_again(tmp_path: Path, change: str) -> None:
    path = file(tmp_path / "a", b"x" * 2000)
    assert content_hash(path) == hashlib.sha256(b"x" * 2000).hexdigest()
    content = b"y" * (2001 if change == "size" else 2000)
    if change == "inode":
        path.rename(tmp_path / "kept")
    file(path, content, OLD + (change == "time"))
    assert content_hash(path) == hashlib.sha256(content).hexdigest()


def test_the_hash_of_a_file_changed_two_seconds_ago_is_not_cached(tmp_path: Path, read: list[Path]) -> None:
    path = file(tmp_path / "a", b"x" * 2000, time.time())
    content_hash(path)
    file(path, b"y" * 2000, path.stat().st_mtime)  # within the clock's grain
    assert content_hash(path) == hashlib.sha256(b"y" * 2000).hexdigest()
    assert read == [path, path]


def test_a_file_that_changes_while_it_is_hashed_is_hashed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file(tmp_path / "a", b"x" * 2000)
    hashed = hashes.sha256_file
    monkeypatch.setattr(hashes, "sha256_file", lambda path: (hashed(path), file(path, b"y" * 2000, OLD + 1))[0])
    content_hash(path)
    monkeypatch.setattr(hashes, "sha256_file", hashed)
    assert content_hash(path) == hashlib.sha256(b"y" * 2000).hexdigest()


@pytest.mark.parametrize(
    "damage", ["{", "[1, 2]", '{"a": 3}', '{"%s": [2000, 1]}', '{"%s": [2000, 1, 1, "a"]}', "\udc00", "[" * 100_000]
)
def test_a_damaged_cache_of_hashes_is_ignored(tmp_path: Path, read: list[Path], damage: str) -> None:
    path = file(tmp_path / "a", b"x" * 2000)
    hashes.cache_file().parent.mkdir(parents=True)
    hashes.cache_file().write_bytes(damage.replace("%s", str(path)).encode("utf-8", "surrogatepass"))
    for _ in range(2):
        assert content_hash(path) == hashlib.sha256(b"x" * 2000).hexdigest()
    assert read == [path]


def test_each_check_has_its_own_cached_result_and_may_be_repeated(tmp_path: Path) -> None:
    asked: list[str] = []

    def reader(question: str) -> Callable[[Path], str]:
        return lambda path: asked.append(question) or f"{question} {path.read_text()[0]}"

    path = file(tmp_path / "a", b"x" * 2000)
    for question in ("first", "second", "first", "second"):
        assert hashes.cached_result(path, question, reader(question)) == f"{question} x"
    assert asked == ["first", "second"]
    file(path, b"y" * 2000)  # which nothing shows but its bytes
    assert hashes.cached_result(path, "first", reader("first")) == "first x"
    for anew in (True, False):
        assert hashes.cached_result(path, "first", reader("first"), anew) == "first y"


def test_the_writer_of_a_file_need_not_read_it(tmp_path: Path, read: list[Path]) -> None:
    path = file(tmp_path / "a", b"x" * 2000, time.time())
    hashes.save_to_cache(path, "sha256", "as written")
    assert content_hash(path) == "as written"
    file(path, b"y" * 2000, time.time() + 1)
    assert content_hash(path) == hashlib.sha256(b"y" * 2000).hexdigest()
    assert read == [path]


def test_a_link_in_place_of_the_cache_of_hashes_is_not_followed(tmp_path: Path) -> None:
    hashes.cache_file().parent.mkdir(parents=True)
    (tmp_path / "precious").write_text("precious", encoding="utf-8")
    hashes.cache_file().symlink_to(tmp_path / "precious")
    content_hash(file(tmp_path / "a", b"x" * 2000))
    assert (tmp_path / "precious").read_text(encoding="utf-8") == "precious"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_a_fifo_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a")
    with pytest.raises(KitError, match="a: cannot be read: not a regular file"):
        content_hash(tmp_path / "a")


def test_a_cache_of_hashes_that_cannot_be_written_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no folder").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no folder"))
    assert content_hash(file(tmp_path / "a", b"x" * 2000)) == hashlib.sha256(b"x" * 2000).hexdigest()


def test_files_that_are_gone_are_forgotten_and_nothing_else_is_left(tmp_path: Path) -> None:
    gone, kept = file(tmp_path / "gone", b"x" * 2000), file(tmp_path / "kept", b"x" * 2000)
    content_hash(gone)
    gone.unlink()
    content_hash(kept)
    assert list(json.loads(hashes.cache_file().read_text())) == [str(kept)]
    assert [path.name for path in hashes.cache_file().parent.iterdir()] == ["hashes.json"]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(KitError, match=r"none: cannot be read: No such file or directory"):
        content_hash(tmp_path / "none")
