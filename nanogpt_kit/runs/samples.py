"""samples.txt: generated texts, under a header with the step of the model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from nanogpt_kit.system.reading import read_bytes
from nanogpt_kit.system.writing import write_atomically

HEADER = re.compile(rf"^{'=' * 60} step (\d+)\n", re.MULTILINE)
BETWEEN = f"\n{'-' * 80}\n"


def add_samples(path: Path, step: int, texts: Sequence[str]) -> bool:
    """Appends texts unless the file has them: a resumed run generates those of its step again. Returns True if new."""
    before = read_samples(path)
    new = f"{'=' * 60} step {step}\n{BETWEEN.join(texts)}\n"
    if new in before:
        return False
    write_samples(path, before + new)
    return True


def newest_samples(path: Path) -> str:
    """The samples of the last step, without their header."""
    return HEADER.split(read_samples(path))[-1].encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def truncate_samples(path: Path, step: int) -> None:
    """Removes the samples after a step: a resumed run writes them again."""
    text = read_samples(path)
    end = next((found.start() for found in HEADER.finditer(text) if int(found[1]) > step), None)
    if end is not None:
        write_samples(path, text[:end])


def read_samples(path: Path) -> str:
    """The content of the file, line ends unchanged. Bytes that are not UTF-8 become lone surrogates."""
    return read_bytes(path).decode("utf-8", "surrogateescape") if path.exists() else ""


def write_samples(path: Path, text: str) -> None:
    write_atomically(path, text.encode("utf-8", "surrogateescape"))
