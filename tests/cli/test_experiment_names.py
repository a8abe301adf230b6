"""Every verb that takes an experiment takes it by name; a name that has only runs is answered with how to continue."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.runs.folder import RunFolder

Command = Callable[..., Any]
VERBS = [
    ("check",),
    ("prepare",),
    ("run",),
    ("sweep",),
    ("sweep", "status"),
    ("bench",),
    ("bench", "quickstart", "--vs"),
]


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_a_misspelt_name_is_answered_with_the_nearest(verb: tuple[str, ...], command: Command) -> None:
    answer = command(*verb, "quikstart")
    assert answer.code == 2
    assert answer.err.startswith("error: no experiment 'quikstart'; did you mean 'quickstart'? Shipped: quickstart, ")
    assert not Path("runs").exists()


def test_a_name_is_that_of_a_local_file_or_else_of_a_shipped_experiment(tiny: Path, command: Command) -> None:
    assert command("check", "tiny").out == "tiny is valid\n"
    assert command("check", "quickstart").out == "quickstart is valid\n"
    tiny.rename("quickstart.toml")
    assert 'name = "tiny"' in command("check", "quickstart", "--explain").out


def test_a_run_of_a_shipped_experiment_has_its_name(command: Command) -> None:
    small = ("train.steps=1", "model.n_layer=1", "model.n_embd=12", "model.n_head=2", "dataset.val_bytes=3000")
    answer = command("run", "quickstart", *small, "sample.num_samples=0", "callback=[]", "evaluator=['loss']")
    assert answer.code == 0, answer.err
    assert len(list(Path("runs/quickstart").glob("*/experiment.toml"))) == 1


def test_a_name_that_has_runs_only_is_answered_with_the_command_that_continues_one(
    run: RunFolder, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = run.path.parents[1]
    monkeypatch.setenv("NANOGPT_KIT_RUNS", str(runs))
    answer = command("run", "tiny")
    assert answer.code == 2
    assert answer.err == (
        f"error: no experiment 'tiny', but {runs / 'tiny'} has runs of this name: "
        "`nanogpt-kit run --resume tiny` continues the newest unfinished one\n"
    )
    assert "has runs" not in command("run", "t*y").err
