"""Every block of Python on a page that uses the kit runs, in the order of the page, in one folder."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.handbook.given import GIVEN, Given, write_folder
from tests.handbook.pages import PAGES, ROOT, Block, blocks_of, is_full_size

ELSEWHERE = {"docs/guide/agents.md"}  # tests/research runs it, and looks at what it prints
SMALLER = {"train.steps=200": "train.steps=2", "=100": "=3", "seeds=3": "seeds=1"}


def ids(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def runs(block: Block) -> bool:
    """Generated blocks quote the code, or are examples of kinds, which have their tests."""
    return (
        block.language == "python"
        and "nanogpt_kit" in block.text
        and not block.generated
        and not block.marker("needs")
        and not is_script(block)
        and ids(block.page) not in ELSEWHERE
    )


def is_script(block: Block) -> bool:
    """Whether a command of the page runs it."""
    name = block.marker("file")
    return bool(name) and any(f"python {name}" in other.text for other in blocks_of(block.page) if other.is_run)


WITH_PYTHON = [page for page in PAGES if any(runs(block) for block in blocks_of(page))]


@pytest.mark.usefixtures("own_modules")
@pytest.mark.parametrize("page", WITH_PYTHON, ids=ids)
def test_every_block_of_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    if not is_full_size(page):
        write_folder(tmp_path)
    for name, text in GIVEN.get(ids(page), Given()).files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    for block in blocks_of(page):
        path = tmp_path / (block.marker("file") or f"line_{block.line}.py")
        if runs(block) or block.marker("file"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(smaller(block.text), encoding="utf-8")
        if runs(block):
            runpy.run_path(str(path))


@pytest.fixture
def own_modules(tmp_path: Path) -> Iterator[None]:
    """Another page may have another module of the same name."""
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(f"{tmp_path}/"):
            del sys.modules[name]


def smaller(text: str) -> str:
    for old, new in SMALLER.items():
        text = text.replace(old, new)
    return text
