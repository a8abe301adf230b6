"""The quick tests are those of the files in tests/quick.txt, without their slow ones: `pytest -m quick`."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

gc.disable()  # while tests are collected: searching all that is imported, again and again, takes half of the time

ROOT = Path(__file__).parent
QUICK = frozenset((ROOT / "tests" / "quick.txt").read_text(encoding="utf-8").split())


def is_quick(path: Path) -> bool:
    return path.is_relative_to(ROOT) and path.relative_to(ROOT).as_posix() in QUICK


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m quick` other files are not even imported: collecting all tests takes seconds."""
    is_other = collection_path.name.startswith("test_") and not is_quick(collection_path)
    return True if is_other and config.option.markexpr == "quick" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if is_quick(item.path) and not {mark.name for mark in item.iter_markers()} & {"slow", "gpu"}:
            item.add_marker(pytest.mark.quick)


def pytest_collection_finish() -> None:
    gc.freeze()  # what is imported stays, and is not searched during the tests
    gc.enable()
