"""The examples of docs/guide/agents.md run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nanogpt_kit.comparison.ledger import read_comparisons
from nanogpt_kit.runs.folder import runs_root

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "agents.md"
SETTINGS = 'callback = []\nevaluator = ["loss"]\n'


def example(language: str) -> str:
    (block,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return str(block)


def test_the_python_example_asks_keeps_and_refuses(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.write_text(SETTINGS + tiny.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.chdir(tiny.parent)
    text = example("python").replace('"quickstart"', '"tiny"').replace("train.steps=200", "train.steps=2")
    exec(text.replace("seeds=3", "seeds=1"), {})
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if ", seed " not in line]  # no progress
    first, mistake, second, again, last = lines
    assert mistake[:2] == ["model.mlp=swigul", "refused:"]
    assert again == [*first[:-1], second[-1]], "the same question again has the same answer"
    assert (first[1], second[1], second[-2:]) == ("undecided", "undecided", ["try", "2"])
    assert last[0] == "<Experiment"
    assert len(list(runs_root().rglob("metrics.jsonl"))) == 3  # the base and two contenders


@pytest.mark.slow
def test_the_shell_example_adopts_what_is_better(tiny: Path, tmp_path: Path) -> None:
    base = tiny.with_name("base.toml")
    base.write_text(SETTINGS + tiny.read_text(encoding="utf-8"), encoding="utf-8")
    changes = ["optimizer.lr = 1e-2", 'model.mlp = "swigul"', "train.log_every_steps = 7"]
    (tmp_path / "changes.txt").write_text("".join(f"{line}\n" for line in changes), encoding="utf-8")
    command = tmp_path / "bin" / "nanogpt-kit"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m nanogpt_kit "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(PAGE.parents[1]),
    }
    words = ["sh", "-c", example("sh")]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    mistake, kept = done.stdout.splitlines()
    assert (mistake, kept) == (f"{changes[1]}: exit code 2", "kept-1.toml"), done.stderr
    better, undecided = read_comparisons()
    assert [result.verdict for result in (*better.results, *undecided.results)] == ["better", "undecided"]
    assert undecided.arms[0].experiment == "kept-1"
    assert json.loads((tmp_path / "answer.json").read_text(encoding="utf-8"))["id"] == undecided.id
