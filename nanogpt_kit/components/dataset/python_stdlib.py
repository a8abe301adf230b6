"""The sources of the installed Python's standard library: real text that every machine has, even offline.

Tests are left out: they are half of the bytes and resemble data. Whole files are split, and no text is in both splits.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from nanogpt_kit.api import Dataset, Field, KitError

EXCLUDED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


class PythonStdlib(Dataset):
    val_bytes: int = Field(130_000, ge=1, description="approximate size of the validation split, in bytes")

    @property
    def has_own_splits(self) -> bool:
        return False

    def documents(self, split: str) -> Iterator[str]:
        for path in self._files(split):
            yield path.read_bytes().decode("utf-8")

    def fingerprint(self) -> str:
        sha256 = hashlib.sha256(str(self.val_bytes).encode())
        for split in self.splits:
            for text in self.documents(split):
                sha256.update(hashlib.sha256(text.encode()).digest())
        return sha256.hexdigest()

    def text_bytes(self) -> int:
        return sum(size for _, size in distinct_sources(Path(sysconfig.get_path("stdlib"))))

    def _files(self, split: str) -> list[Path]:
        """Files in the order of a hash of their names, so that both splits cover the whole library."""
        train: list[Path] = []
        val: list[Path] = []
        bytes_left = self.val_bytes
        for path, size in distinct_sources(Path(sysconfig.get_path("stdlib"))):
            if size <= bytes_left:
                val.append(path)
                bytes_left -= size
            else:
                train.append(path)
        return val if split == "val" else train


@cache
def distinct_sources(root: Path) -> tuple[tuple[Path, int], ...]:
    """(path, bytes) of every UTF-8 source below `root` that is not empty; of equal files the first."""
    sources: dict[bytes, tuple[Path, int]] = {}
    paths: list[Path] = []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in EXCLUDED_FOLDERS]  # not visited: they are large
        paths += [Path(folder, name) for name in files if name.endswith(".py")]
    for path in sorted(paths, key=lambda path: hashlib.sha256(os.fsencode(path.relative_to(root).as_posix())).digest()):
        content = path.read_bytes()
        try:
            content.decode("utf-8")
        except UnicodeDecodeError:
            continue
        if content:
            sources.setdefault(hashlib.sha256(content).digest(), (path, len(content)))
    if not sources:
        raise KitError(f"this Python has no library sources in {root}; use another dataset, such as text")
    return tuple(sources.values())
