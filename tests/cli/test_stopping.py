"""A run that is stopped prints what is saved, and the command that continues it; that command works as it is."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.runs.find import find_run
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.train import session, trainer

Command = Callable[..., Any]
CONTINUE = "with: nanogpt-kit "
QUIET = ("train.compile=off", "sample.num_samples=0", "checkpoint.every_steps=4")

CALLBACK = """\
import os, signal
from nanogpt_kit.api import Callback, hookimpl

class Stopper(Callback):
    at: int
    signals: int = 1

    def build(self, run):
        return Listener(self.at, self.signals)

class Listener:
    def __init__(self, at, signals):
        self.at, self.signals = at, signals

    @hookimpl
    def step_finished(self, step):
        for _ in range(self.signals if step == self.at else 0):
            os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with the runs in runs/, and a callback that sends signals to its run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NANOGPT_KIT_RUNS")
    (tmp_path / "stopper.py").write_text(CALLBACK, encoding="utf-8")
    return tmp_path


def stopping(at: int, signals: int = 1) -> tuple[str, ...]:
    callback = f'callback=[{{use="stopper", at={at}, signals={signals}}}]'
    return (*QUIET, "components=['stopper.py']", callback)


def continuation(text: str) -> list[str]:
    """The arguments of the command that the last line names."""
    return shlex.split(text.splitlines()[-1].partition(CONTINUE)[2])


def last_lines(text: str) -> str:
    """What was stopped and where it is saved, and the command."""
    return "\n".join(text.splitlines()[-2:])


def losses(folder: RunFolder) -> list[float]:
    return [line["train/loss"] for line in read_metrics(folder.metrics) if "train/loss" in line]


def test_a_stopped_run_prints_where_it_is_saved_and_the_command_that_continues_it(
    tiny: Path, here: Path, command: Command
) -> None:
    told = command("run", "tiny.toml", *stopping(7))
    folder = find_run("tiny").folder
    line = f"stopped at step 7 of 20; saved in {folder}\ncontinue with: nanogpt-kit run {folder}"
    assert (told.code, last_lines(told.err)) == (130, line)
    assert not folder.path.is_absolute()
    told = command(*continuation(told.err))
    assert (told.code, find_run("tiny").folder) == (0, folder), told.err
    whole = session.run(Experiment.load("tiny.toml", [*QUIET, "callback=[]", "name=whole"]))
    assert losses(folder) == losses(whole)


@pytest.mark.parametrize(
    ("at", "signals", "expected"),
    [
        (1, 2, "stopped at step 1 of 20, before the first checkpoint; nothing is saved\nstart again with: "),
        (7, 2, "stopped at step 7 of 20; the newest checkpoint is that of step 4, in {run}\ncontinue from it with: "),
    ],
)
def test_a_second_signal_says_what_the_newest_checkpoint_is(
    tiny: Path, here: Path, command: Command, at: int, signals: int, expected: str
) -> None:
    told = command("run", "tiny.toml", *stopping(at, signals))
    folder = find_run("tiny").folder
    assert (told.code, last_lines(told.err)) == (130, f"{expected.format(run=folder)}nanogpt-kit run {folder}")
    assert command(*continuation(told.err), "callback=[]").code == 0
    assert folder.status().step == 20


def test_a_signal_before_the_run_folder_exists_prints_that_it_was_interrupted(
    tiny: Path, here: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*words: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "set_up", interrupt)
    told = command("run", "tiny.toml")
    assert (told.code, told.err.strip()) == (130, "interrupted")


@pytest.mark.parametrize(
    ("owner", "function", "missing"),
    [(session, "write_samples", "the samples"), (trainer, "run_evaluators", "the last evaluation")],
)
def test_after_the_last_step_the_training_is_complete(
    tiny: Path,
    here: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    function: str,
    missing: str,
) -> None:
    options = ("callback=[]", "train.compile=off", "evaluate.every_steps=100", "sample.max_new_tokens=3")
    with monkeypatch.context() as patch:
        patch.setattr(owner, function, lambda *words: os.kill(os.getpid(), signal.SIGINT))
        told = command("run", "tiny.toml", *options)
    folder = find_run("tiny").folder
    complete = f"the training is complete at step 20, saved in {folder}; still missing: {missing}\ncontinue with: "
    assert last_lines(told.err) == f"{complete}nanogpt-kit run {folder}"
    assert command(*continuation(told.err)).code == 0
    assert (folder.status().state, folder.samples.exists()) == ("finished", True)


def test_the_command_is_quoted_and_absolute_for_a_run_elsewhere(
    tiny: Path, here: Path, command: Command, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("other folder")
    told = command("run", "tiny.toml", *stopping(2), f"--into={elsewhere / 'run'}")
    assert told.err.splitlines()[-1].endswith(f"continue with: nanogpt-kit run '{elsewhere / 'run'}'")
    assert command(*continuation(told.err)).code == 0


def test_a_run_folder_in_the_current_folder_is_not_taken_for_an_experiment(
    tiny: Path, here: Path, command: Command
) -> None:
    told = command("run", "tiny.toml", *stopping(2), "--into=mine")
    assert told.err.splitlines()[-1].endswith("continue with: nanogpt-kit run ./mine")
    refused = command("run", "mine")
    assert (refused.code, "nanogpt-kit run ./mine" in refused.err) == (2, True)
    assert command(*continuation(told.err)).code == 0


def test_code_without_recorded_consent_needs_the_option_again(
    tiny: Path, here: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/none")  # consents cannot be written there
    told = command("run", "tiny.toml", *stopping(2))
    assert told.err.splitlines()[-1].endswith(f"nanogpt-kit run {find_run('tiny').folder} --trust-code")


def test_interrupted_seeds_name_those_that_remain(tiny: Path, here: Path, command: Command) -> None:
    words = ("run", "tiny.toml", *QUIET, "train.steps=4", "train.seed=5", "--seeds", 3)
    assert command(*words[:-2], "callback=[]").code == 0
    told = command(*words, *stopping(2)[-2:], "--resume")
    expected = "seeds 6 and 7 remain; continue both with: nanogpt-kit run tiny.toml "
    assert told.err.splitlines()[-1].startswith(expected)
    assert "stopped at step 2 of 4; saved in " in told.err.splitlines()[-3]
    again = continuation(told.err)
    assert again.count("--resume") == 1
    assert command(*(word for word in again if "stopper" not in word), "callback=[]").code == 0
    runs = [RunFolder(path) for path in sorted((here / "runs" / "tiny").iterdir())]
    assert [(run.seed(), run.status().state) for run in runs] == [(seed, "finished") for seed in (5, 6, 7)]


def test_several_processes_print_the_command_once(tiny: Path, here: Path) -> None:
    script = [sys.executable, "-m", "nanogpt_kit", "run", "tiny.toml", *stopping(3), "train.device=cpu", "--nproc", "2"]
    told = subprocess.run(script, capture_output=True, text=True)
    folder = find_run("tiny").folder
    line = f"stopped at step 3 of 20; saved in {folder}\ncontinue with: nanogpt-kit run {folder} --nproc 2"
    assert (told.returncode, last_lines(told.stderr)) == (130, line)
    assert told.stderr.count("stopped at step") == 1
    assert told.stderr.count("\n\n") == 1  # of rank 0, after the ^C of a terminal
    again = [sys.executable, "-m", "nanogpt_kit", *continuation(told.stderr)]
    assert subprocess.run(again, capture_output=True).returncode == 0
    assert folder.status().state == "finished"


# Runs that failed, and budgets


def test_a_failed_run_prints_what_is_saved(
    tiny: Path, here: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trainer.Trainer.accumulate

    def fail(run: Any, batch: Any) -> Any:
        if run.step == 6:
            raise MemoryError
        return whole(run, batch)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "accumulate", fail)
        told = command("run", "tiny.toml", *QUIET, "callback=[]")
    folder = find_run("tiny").folder
    expected = f"the checkpoint of step 4 of 20 is saved in {folder}\ncontinue with: nanogpt-kit run {folder}"
    assert (told.code, last_lines(told.err)) == (1, expected)
    assert told.err.splitlines()[-3].startswith("run failed: step 7: out of memory")
    assert command(*continuation(told.err)).code == 0


@pytest.mark.parametrize("at", [1, 6])
def test_a_loss_that_is_not_finite_is_not_repeated(
    tiny: Path, here: Path, command: Command, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    whole = trainer.Trainer.accumulate

    def broken(run: Any, batch: Any) -> Any:
        factor = float("nan") if run.step == at else 1.0
        return {name: mean * factor for name, mean in whole(run, batch).items()}

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "accumulate", broken)
        told = command("run", "tiny.toml", *QUIET, "callback=[]")
    folder = find_run("tiny").folder
    if at == 1:
        assert told.err.splitlines()[-1] == "no checkpoint is saved"
        return
    saved, last = told.err.splitlines()[-2:]
    assert saved == f"the checkpoint of step 4 of 20 is saved in {folder}; the same steps would fail again"
    words = shlex.split(last.partition("other settings: nanogpt-kit ")[2])
    assert words == ["run", f"{folder}/experiment.toml", f"model.init_from={folder}", "KEY=VALUE"]
    assert command(*words[:-1], "optimizer.lr=1e-4", "train.steps=1").code == 0


def test_a_budget_of_seconds_names_the_command_that_continues(tiny: Path, here: Path, command: Command) -> None:
    told = command("run", "tiny.toml", *QUIET, "callback=[]", "train.max_seconds=1e-9")
    folder = find_run("tiny").folder
    step = folder.status().step
    assert step < 20
    assert told.err.splitlines()[-1].startswith(f"continue with: nanogpt-kit run {folder} train.max_seconds=")
    assert command(*continuation(told.err)).code == 0
    assert folder.status().step > step


def test_an_interrupted_sweep_prints_the_command_that_continues_it(
    tiny: Path, here: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nanogpt_kit.sweep import session as sweeps

    def interrupt(*words: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sweeps, "run_sweep", interrupt)
    tiny.write_text(tiny.read_text() + '[sweep.space]\n"optimizer.lr" = { float = [1e-4, 1e-1], log = true }\n')
    told = command("sweep", "tiny.toml", "--trials", 3, "--storage", "postgresql://me:secret@host/db")
    last = told.err.splitlines()[-1]
    assert told.code == 130
    assert last.endswith(
        "continue with: nanogpt-kit sweep tiny.toml --trials 3 --storage 'postgresql://me:***@host/db'"
    )
