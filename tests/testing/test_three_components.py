"""The components of docs/extending/three-components.md are as short as it says, pass their suites, survive a kill."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.testing.training import resume_briefly

PAGE = Path(__file__).parents[2] / "docs" / "extending" / "three-components.md"
NAMES = ("sliding_window", "cooldown", "json_log")
FILES = tuple(f"{prefix}{name}.py" for name in NAMES for prefix in ("", "test_"))
SMALL = {
    'extends = "quickstart"': 'extends = "tiny"',
    "window = 32": "window = 3",
    "warmup_steps = 20": "warmup_steps = 2",
    "steps = 300": "steps = 6",
    "every_steps = 50": "every_steps = 2",
}
# Ends the process in the middle of a line of log.jsonl, at a step after the newest checkpoint.
KILL = """\
import os, signal
from nanogpt_kit.api import Callback, hookimpl

class Kill(Callback):
    def build(self, run):
        return Killer()

class Killer:
    @hookimpl
    def logged(self, run, step):
        if step == 3 and run.first_step == 0:
            with (run.path / "log.jsonl").open("a") as file:
                file.write('{"step": 4, "train')
            os.kill(os.getpid(), signal.SIGKILL)
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with the files of the page, and the experiment of the page as my.toml."""
    for name, text in zip(FILES, blocks("python"), strict=True):
        (tmp_path / name).write_text(text, encoding="utf-8")
    (experiment,) = blocks("toml")
    (tmp_path / "my.toml").write_text(experiment, encoding="utf-8")
    return tmp_path


def lines_of_code(source: str) -> int:
    """Without blank lines, comments and docstrings."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Module | ast.ClassDef)]
    docstrings = {
        line
        for node in nodes
        if ast.get_docstring(node)
        for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    }
    lines = enumerate(source.splitlines(), 1)
    return sum(1 for n, line in lines if line.strip() and not line.lstrip().startswith("#") and n not in docstrings)


def test_together_they_are_as_many_lines_as_the_page_says() -> None:
    lines = sum(map(lines_of_code, blocks("python")[::2]))
    assert lines < 60
    assert f"Together they are {lines} lines of code" in " ".join(PAGE.read_text(encoding="utf-8").split())


def test_the_suites_of_the_page_pass_by_its_command(files: Path) -> None:
    (line,) = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("python -m pytest")]
    further = ["-q", "-W", "error", "-p", "no:cacheprovider", "-k", "not compiled"]
    words = [*further, *line.replace('"not slow"', "not_slow").split()[3:]]
    command = [sys.executable, "-m", "pytest", *(word.replace("not_slow", "not slow") for word in words)]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # they take two seconds to import
    done = subprocess.run(command, cwd=files, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^1\d\d passed, \d+ deselected", done.stdout, re.MULTILINE), done.stdout


def test_its_experiment_resumes_bit_for_bit_with_each_step_logged_once(files: Path) -> None:
    run = resume_briefly(files / "brief", experiment=files / "my.toml")
    assert [line["step"] for line in logged(run.path)] == [1, 2, 3, 4, 5]


def test_killed_in_a_line_the_run_resumes_by_the_commands_of_the_page(
    files: Path, tiny: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    text = (files / "my.toml").read_text(encoding="utf-8")
    for long, short in SMALL.items():
        assert text.count(long) == 1, long
        text = text.replace(long, short)
    text = text.replace('"json_log.py"', '"json_log.py", "kill.py"').replace('"json_log"]', '"json_log", "kill"]')
    (files / "my.toml").write_text(text, encoding="utf-8")
    (files / "kill.py").write_text(KILL, encoding="utf-8")
    checked = command("check", "my.toml", "--trust-code")
    assert checked.code == 0, checked.err
    words = [sys.executable, "-m", "nanogpt_kit", "run", "my.toml", "--trust-code"]
    killed = subprocess.run(words, capture_output=True, text=True, check=False)
    assert killed.returncode == -9, killed.stderr
    (folder,) = (files / "runs" / "my").iterdir()
    assert (folder / "log.jsonl").read_text(encoding="utf-8").endswith('{"step": 4, "train')
    resumed = command("run", "--resume", "my")
    assert resumed.code == 0, resumed.err
    assert "resumes at step 2 of 6" in resumed.err
    assert [line["step"] for line in logged(folder)] == [1, 2, 3, 4, 5, 6]
    with open(os.devnull) as no_prompts:
        monkeypatch.setattr("sys.stdin", no_prompts)
        assert command("sample", "my").code == 0


def logged(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
