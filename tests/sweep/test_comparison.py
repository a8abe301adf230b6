"""Whole comparisons, each run a process: what is run, what is answered, and what continues after a kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.compare.record import Comparison
from nanogpt_kit.runs.folder import RunFolder

SCRIPT = Path(__file__).with_name("compare.py")
SWIGLU = "model.mlp=swiglu"


class Compared:
    """An experiment, and a comparison of it with changes of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs = path.parent / "runs"

    def start(self, **options: Any) -> subprocess.Popen[str]:
        words = [sys.executable, str(SCRIPT), str(self.path), json.dumps(options)]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(words, env=dict(os.environ), **pipes)

    def run(self, code: int = 0, **options: Any) -> Any:
        """The comparison, or what it says where it fails."""
        process = self.start(**options)
        out, err = process.communicate(timeout=240)
        assert process.returncode == code, out + err
        return err if code else Comparison.model_validate_json(out)

    @property
    def folder(self) -> Path:
        [found] = (self.runs / "tiny" / "compare").iterdir()
        return found

    def run_names(self) -> list[str]:
        return sorted(path.parent.name for path in self.folder.glob("*/experiment.toml"))

    def starts(self) -> dict[str, int]:
        """How often each run began or continued."""
        logs = {path.stem: path.read_text() for path in (self.folder / "trials").glob("*.log")}
        return {name: text.count("compile off: ") for name, text in logs.items()}


@pytest.fixture
def compared(tmp_path: Path, tiny: Path) -> Compared:
    text = tiny.read_text(encoding="utf-8").replace("steps = 20", "steps = 6\ncompile = \"off\"\nthreads = 1")
    text = text.replace("every_steps = 10", "every_steps = 3")
    tiny.write_text("callback = []\n" + text, encoding="utf-8")
    return Compared(tiny)


def test_each_arm_runs_with_each_seed_and_the_same_command_runs_nothing_more(compared: Compared) -> None:
    first = compared.run(changes=[SWIGLU], seeds=[3, 4])
    names = ["base-s3", "base-s4", "model.mlp=swiglu-s3", "model.mlp=swiglu-s4"]
    assert compared.run_names() == names
    assert [(one.arm, one.seed, one.is_reused, one.state) for one in first.measurements] == [
        (arm, seed, False, "finished") for arm in (0, 1) for seed in (3, 4)
    ]
    again = compared.run(changes=[SWIGLU], seeds=[3, 4])
    assert again.measurements == first.measurements
    assert compared.starts() == dict.fromkeys(names, 1)
