"""With torch's real compiler: of runs that share a graph the first one compiles it, and all are compiled alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nanogpt_kit.core.machine_choices import COMPILE_TASK
from nanogpt_kit.runs.machine_choices import FILE_NAME

pytestmark = pytest.mark.slow

# Decides as where the passes take long: a run of a tiny model is otherwise too short to compile
PROGRAM = """
import sys
from nanogpt_kit.train import compile, compile_decision
compile.MIN_PASSES = 1
compile_decision.SECONDS_PER_BLOCK = 1e-6
from nanogpt_kit.__main__ import main
sys.argv = ["nanogpt-kit", *sys.argv[1:]]
main()
"""


def test_the_second_seed_finds_what_the_first_one_compiled(tiny: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    options = ["train.precision=bf16", "train.steps=3", "model.dropout=0.0", "callback=[]", "sample.num_samples=0"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "run", str(tiny), "--seeds=2", "--verbose", "--json", *options],
        env=environment | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    folders = [Path(run["run"]) for run in json.loads(done.stdout)["runs"]]
    modes = [json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))["choices"] for folder in folders]
    compiled = [{task: mode for task, mode in one.items() if task.startswith(COMPILE_TASK)} for one in modes]
    assert compiled[0] == compiled[1]
    [record] = (tmp_path / "cache" / "nanogpt-kit" / "compiled" / "nanogpt-kit").glob("?" * 24 + ".json")
    known = json.loads(record.read_text(encoding="utf-8"))
    assert known["cold_seconds"] > known["warm_seconds"] > 0, done.stderr
