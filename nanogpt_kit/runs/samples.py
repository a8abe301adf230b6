"""samples.txt: what a model wrote, under the step at which it did."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from nanogpt_kit.core.reading import read_bytes
from nanogpt_kit.core.writing import write_atomically

HEADER = re.compile(rf"^{'=' * 60} step (\d+)\n", re.MULTILINE)
BETWEEN = f"\n{'-' * 80}\n"


def add(path: Path, step: int, texts: Sequence[str]) -> bool:
    """Once: a resumed run writes again what one that was stopped at this step has written. Whether it was new."""
    before = read(path)
    new = f"{'=' * 60} step {step}\n{BETWEEN.join(texts)}\n"
    if new in before:
        return False
    write(path, before + new)
    return True


def newest(path: Path) -> str:
    """What was written last, without its header."""
    return HEADER.split(read(path))[-1].encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def truncate_after(path: Path, step: int) -> None:
    """Forgets what was written after a step: a resumed run writes it again."""
    text = read(path)
    late = next((found.start() for found in HEADER.finditer(text) if int(found[1]) > step), None)
    if late is not None:
        write(path, text[:late])


def read(path: Path) -> str:
    """To the byte: models write carriage returns, too. Bytes that are not UTF-8 become half surrogates, and stay."""
    return read_bytes(path).decode("utf-8", "surrogateescape") if path.exists() else ""


def write(path: Path, text: str) -> None:
    write_atomically(path, text.encode("utf-8", "surrogateescape"))
