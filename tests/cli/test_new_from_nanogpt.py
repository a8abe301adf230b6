"""`new --from-nanogpt` on the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nanogpt_kit.core.experiment import Experiment

Command = Callable[..., Any]


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "nanogpt_kit.core.schema", SimpleNamespace(experiment_schema=dict))
    Path("config.py").write_text("dataset = 'shakespeare_char'\nmax_iters = 5\n")


def test_it_writes_an_experiment_and_says_what_comes_next(command: Command) -> None:
    answer = command("new", "sub (1)", "--from-nanogpt", "config.py")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.splitlines() == [
        "written: sub (1).toml, from nanoGPT's config.py",
        "written: nanogpt-kit.schema.json, for editors",
        "next:",
        "  nanogpt-kit check 'sub (1)'",
        "  nanogpt-kit run 'sub (1)'",
    ]
    text = Path("sub (1).toml").read_text()
    assert text.startswith("#:schema nanogpt-kit.schema.json\n# The training of nanoGPT's config.py.\nname = ")
    experiment = Experiment.load("sub (1).toml")
    assert (experiment.name, experiment.total_steps) == ("sub-1", 5)
    assert command("check", "sub (1)").code == 0


def test_the_source_is_written(command: Command) -> None:
    assert command("new", "my", "--from-nanogpt", "config.py", "--source", "here.txt").code == 0
    assert Experiment.load("my.toml").dataset.source == "here.txt"


def test_what_comes_before_the_check_is_said(command: Command) -> None:
    Path("config.py").write_text("init_from = 'resume'\ndataset = 'mine'\n")
    assert command("new", "my", "--from-nanogpt", "config.py").out.splitlines()[2:] == [
        "next:",
        "  nanogpt-kit import out/ckpt.pt out",
        "  set dataset.source to the folder with train.bin and val.bin",
        "  nanogpt-kit check my",
        "  nanogpt-kit run my",
    ]
    Path("data/mine").mkdir(parents=True)
    assert "set dataset.source" not in command("new", "other", "--from-nanogpt", "config.py").out


def test_a_path_in_quotes_is_expanded(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THERE", str(Path.cwd()))
    assert command("new", "my", "--from-nanogpt", "$THERE/config.py").code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--from-nanogpt", "config.py", "--from", "my_text"], "command line: --from and --from-nanogpt exclude each"),
        (
            ["--from-nanogpt", "config.py", "--source", "a", "--source", "b"],
            "command line: with --from-nanogpt, --sour",
        ),
        (["--from-nanogpt", "config.py", "--batch_size=3"], "there is no option --batch_size"),
        (["--from-nanogpt", "config.py", "batch_size=3"], "command line: unexpected 'batch_size=3': `new` takes no "),
        (["--from-nanogpt", "nowhere.py"], "nowhere.py: cannot be read as a config file of nanoGPT: No such file"),
        (["--from-nanogpt", "bad.py"], "bad.py:2: a call of open is not evaluated; expected "),
        (["--from-nanogpt", "config.py", "--source", "caf\udce9"], "config.py:1: dataset (dataset.source): "),
    ],
)
def test_a_mistake_is_explained_and_nothing_is_written(words: list[str], said: str, command: Command) -> None:
    Path("bad.py").write_text("max_iters = 5\nbatch_size = open('written', 'w')\n")
    answer = command("new", "my", *words)
    assert answer.code == 2
    assert answer.err.startswith(f"error: {said}")
    assert sorted(path.name for path in Path().iterdir()) == ["bad.py", "config.py"]


def test_several_faults_are_reported_at_once(command: Command) -> None:
    Path("config.py").write_text("import os\nbatch_sise = 3\nn_layer = 9**9**9\n")
    answer = command("new", "my", "--from-nanogpt", "config.py")
    assert (answer.code, "Traceback" in answer.err) == (2, False)
    lines = answer.err.splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["3 errors:", *(f"config.py:{line}" for line in (1, 2, 3))]
    assert "did you mean 'batch_size'?" in lines[2]


def test_an_option_that_a_fork_added_is_refused_with_its_line_and_what_to_do(command: Command) -> None:
    Path("config.py").write_text("max_iters = 5\nwindow = 16\n")
    answer = command("new", "my", "--from-nanogpt", "config.py")
    assert (answer.code, Path("my.toml").exists()) == (2, False)
    for part in ("config.py:2: ", "'window'", "remove it here", "your component"):
        assert part in answer.err
