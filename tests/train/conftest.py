"""What the tests of training share."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from nanogpt_kit.runs.folder import RunFolder

FOLDERS = ("runs", "data", "state")  # where a run writes, in the folder of a test


@pytest.fixture(name="assert_same")
def given_assert_same() -> Callable[[Any, Any], None]:
    """Compares nested states to the bit."""
    return assert_same


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """To the bit."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}.{index}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


@pytest.fixture(scope="session")
def kept_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def once(tiny: Path, kept_folders: Path) -> Callable[..., list[RunFolder]]:
    """`once(name, *train)`: the runs of these functions. They train for the first test with an experiment and a name;
    every later one gets copies of what was written, in its own folders."""

    def once(name: str, *train: Callable[[], RunFolder]) -> list[RunFolder]:
        experiment = tiny.read_text(encoding="utf-8").replace(str(tiny.parent), "")
        kept = kept_folders / f"{name}-{sha256(experiment.encode()).hexdigest()}"
        here = tiny.parent
        if not kept.exists():
            runs = [begin().path.absolute().relative_to(here) for begin in train]
            for folder in FOLDERS:
                if (here / folder).exists():
                    shutil.copytree(here / folder, kept / folder)
            (kept / "runs.json").write_text(json.dumps([str(run) for run in runs]), encoding="utf-8")
        else:
            for folder in FOLDERS:
                if (kept / folder).exists():
                    shutil.copytree(kept / folder, here / folder)
        names = json.loads((kept / "runs.json").read_text(encoding="utf-8"))
        return [RunFolder(here / name) for name in names]

    return once
