"""The sources of the installed Python's standard library: real text that every machine has, network or not.

Tests are left out: they are half of the bytes and read like data. The split is by file, and no text is in both.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from nanogpt_kit.api import Dataset, Field, KitError

LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


class PythonStdlib(Dataset):
    val_bytes: int = Field(130_000, ge=1, description="size of the validation split, nearly")

    @property
    def has_own_splits(self) -> bool:
        return False

    def documents(self, split: str) -> Iterator[str]:
        for path in self._files(split):
            yield path.read_bytes().decode("utf-8")

    def fingerprint(self) -> str:
        hashed = hashlib.sha256(str(self.val_bytes).encode())
        for split in self.splits:
            for text in self.documents(split):
                hashed.update(hashlib.sha256(text.encode()).digest())
        return hashed.hexdigest()

    def text_bytes(self) -> int:
        return sum(size for _, size in distinct_sources(Path(sysconfig.get_path("stdlib"))))

    def _files(self, split: str) -> list[Path]:
        """Files in the order of a hash of their names, so that neither split is one corner of the library."""
        train: list[Path] = []
        val: list[Path] = []
        room = self.val_bytes
        for path, size in distinct_sources(Path(sysconfig.get_path("stdlib"))):
            if size <= room:
                val.append(path)
                room -= size
            else:
                train.append(path)
        return val if split == "val" else train


@cache
def distinct_sources(root: Path) -> tuple[tuple[Path, int], ...]:
    """(path, bytes) of every UTF-8 source below `root` that is not empty, the first of equal ones."""
    found: dict[bytes, tuple[Path, int]] = {}
    paths = [path for path in root.rglob("*.py") if not LEFT_OUT.intersection(path.relative_to(root).parts)]
    for path in sorted(paths, key=lambda path: hashlib.sha256(os.fsencode(path.relative_to(root).as_posix())).digest()):
        content = path.read_bytes()
        try:
            content.decode("utf-8")
        except UnicodeDecodeError:
            continue
        if content:
            found.setdefault(hashlib.sha256(content).digest(), (path, len(content)))
    if not found:
        raise KitError(f"this Python has no library sources in {root}; use another dataset, such as text")
    return tuple(found.values())
