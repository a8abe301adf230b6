"""The first argument of `run`: an experiment, or a run that continues with its own settings."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.cli.run_reference import find_named_run
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.runs.find import find_run
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.train import session, trainer
from tests.runs.made_runs import make_run

Command = Callable[..., Any]
QUIET = (
    *("callback=[]", "sample.num_samples=0", "train.compile=off"),
    *("schedule.warmup_steps=2", "train.steps=6", "checkpoint.every_steps=2"),
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NANOGPT_KIT_RUNS")


@pytest.fixture
def stopped(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run with options of its own that was interrupted after step 4 of 6."""
    update = trainer.Trainer.update

    def interrupt(run: Any, batch: Any) -> Any:
        if run.step == 4:
            signal.raise_signal(signal.SIGINT)
        return update(run, batch)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "update", interrupt)
        with pytest.raises(KeyboardInterrupt):
            session.run(Experiment.load(tiny, [*QUIET, "optimizer.lr=0.01", "train.seed=7"]))
    run = find_run("tiny").folder
    assert (run.status().state, run.status().step) == ("interrupted", 5)
    return run


def forms(run: RunFolder) -> dict[str, tuple[str, ...]]:
    return {
        "folder": (str(run),),
        "absolute folder": (str(run.path.absolute()),),
        "folder with a slash": (f"{run}/",),
        "run id": (run.path.name,),
        "folder and --resume": (str(run), "--resume"),
        "--resume and folder": ("--resume", str(run)),
        "--resume=folder": (f"--resume={run}",),
        "name and --resume": ("tiny", "--resume"),
        "--resume and name": ("--resume", "tiny"),
        "--resume, name, override": ("--resume", "tiny", "evaluate.every_steps=3"),
        "override, --resume, name": ("evaluate.every_steps=3", "--resume", "tiny"),
        "seed": ("--resume", "tiny", "train.seed=7"),
    }


# Of each way to name a run, one continues it
FORMS = ("folder", "run id", "--resume=folder", "override, --resume, name", "seed")


@pytest.mark.parametrize(
    "form",
    [pytest.param(form, marks=[] if form in FORMS else pytest.mark.slow) for form in forms(RunFolder(Path()))],
)
def test_a_run_continues_with_its_own_settings_however_it_is_named(
    tiny: Path, stopped: RunFolder, command: Command, form: str
) -> None:
    tiny.write_text("this is not TOML any more: the run has its own experiment")
    done = command("run", *forms(stopped)[form])
    assert (done.code, f"{stopped.path.name}\nval/loss " in done.err) == (0, True), done.err
    assert (stopped.status().state, stopped.status().step) == ("finished", 6)
    assert "lr = 0.01" in stopped.experiment.read_text()
    assert ("every_steps = 3" in stopped.experiment.read_text()) == ("override" in form)
    assert len(list(Path("runs/tiny").iterdir())) == 1


def test_a_bare_name_is_the_experiment_even_where_a_run_has_it(tiny: Path, stopped: RunFolder) -> None:
    assert find_named_run("tiny") is None
    stopped.path.rename("tiny")
    assert find_named_run("tiny") is None
    Path("tiny").rename("other")
    with pytest.raises(KitError, match=r"nanogpt-kit run \./other"):
        find_named_run("other")
    found = find_named_run("./other")
    assert found is not None
    assert (found.folder.path.name, found.as_argument()) == ("other", "./other")


def test_the_file_of_a_run_starts_a_new_run(stopped: RunFolder, command: Command) -> None:
    assert command("run", stopped.experiment).code == 0
    assert len(list(Path("runs/tiny").iterdir())) == 2


def test_with_a_file_the_settings_of_the_file_are_compared(tiny: Path, stopped: RunFolder, command: Command) -> None:
    refused = command("run", tiny, *QUIET, "train.seed=7", "--resume")
    assert (refused.code, f"optimizer.lr: 0.003 now, 0.01 in {stopped}" in refused.err) == (2, True), refused.err
    assert f"continue with the run's own settings: nanogpt-kit run {stopped}\n" in refused.err
    assert "train a new run: the same command without --resume" in refused.err
    assert command("run", tiny, *QUIET, "train.seed=7", "optimizer.lr=0.01", "--resume").code == 0


def test_overrides_that_cannot_apply_name_the_commands_that_work(stopped: RunFolder, command: Command) -> None:
    refused = command("run", stopped, "optimizer.lr=0.5", "schedule=constant")
    assert refused.code == 2
    assert f"command line: optimizer.lr: 0.5 now, 0.01 in {stopped}" in refused.err
    line = f"train a new run: nanogpt-kit run {stopped.experiment} optimizer.lr=0.5 schedule.use=constant"
    assert line in refused.err.splitlines()[-1]
    words = refused.err.splitlines()[-1].partition("nanogpt-kit ")[2].split()
    assert command(*words).code == 0


def test_a_finished_run_says_so_and_how_it_trains_longer(stopped: RunFolder, command: Command) -> None:
    assert command("run", stopped).code == 0
    told = command("run", stopped)
    assert (told.code, told.out) == (0, "")
    assert told.err.splitlines()[:2] == [f"already finished: {stopped}", "to train longer:"]
    assert f"nanogpt-kit run {stopped}/experiment.toml model.init_from={stopped} train.steps=STEPS" in told.err


def test_an_imported_run_is_not_continued(stopped: RunFolder, command: Command) -> None:
    stopped.set_status("finished", imported=True, total_steps=6)
    told = command("run", stopped)
    assert (told.code, f"model.init_from={stopped} starts from it" in told.err) == (2, True)


def test_a_run_at_work_is_busy(stopped: RunFolder, command: Command) -> None:
    stopped.set_status("running")
    with stopped.lock():
        assert command("run", stopped).code == 75
        assert command("run", "--resume", "tiny").code == 75


def test_an_unknown_run_id_is_not_taken_for_an_experiment(stopped: RunFolder, command: Command) -> None:
    told = command("run", "20260101-010101000-s1-abcdef")
    assert (told.code, "there is no run 20260101-010101000-s1-abcdef in runs/" in told.err) == (2, True)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--seeds", 2), "remove --seeds"),
        (("--into", "x"), "remove --into"),
        (("--resume=runs/other",), "are two runs"),
    ],
)
def test_options_that_exclude_a_run_are_refused(
    stopped: RunFolder, command: Command, options: tuple[Any, ...], expected: str
) -> None:
    told = command("run", stopped, *options)
    assert (told.code, expected in told.err) == (2, True)


def test_an_experiment_is_not_extended(tiny: Path, command: Command) -> None:
    told = command("run", tiny, "--extend", 5)
    assert (told.code, "nanogpt-kit run RUN --extend 5" in told.err) == (2, True)
    told = command("run", tiny, "--resume=runs/tiny/a b", "--extend", 5)
    assert (told.code, "nanogpt-kit run 'runs/tiny/a b' --extend 5" in told.err) == (2, True)


def test_a_name_on_the_command_line_is_that_of_the_run_to_resume(
    tiny: Path, command: Command, stopped: RunFolder
) -> None:
    other = session.run(Experiment.load(tiny, [*QUIET, "name=other"]))
    other.set_status("interrupted")
    shutil.rmtree(other.checkpoint(6))
    assert command("run", "tiny", "name=other", "--resume").code == 0
    assert (other.status().state, stopped.status().state) == ("finished", "interrupted")


@pytest.mark.parametrize("path", ["runs/tiny", "runs/tiny/", "runs/tiny/20260101", "{run}x", "{run}/checkpoints"])
def test_a_path_among_the_runs_that_is_no_run_names_the_command_that_continues(
    stopped: RunFolder, command: Command, path: str
) -> None:
    told = command("run", path.format(run=stopped))
    expected = "runs/tiny has runs of that experiment: `nanogpt-kit run --resume tiny` continues the newest"
    assert (told.code, expected in told.err) == (2, True), told.err


def test_a_path_below_a_folder_without_runs_is_an_unknown_run(stopped: RunFolder, command: Command) -> None:
    told = command("run", "runs/tinny/x")
    assert (told.code, told.err.startswith("error: no run 'runs/tinny/x'"), "Runs here: tiny." in told.err) == (
        *(2, True),
        True,
    )


def test_a_text_that_is_missing_in_another_folder_names_the_folder_the_run_was_started_in(
    tiny: Path, stopped: RunFolder, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml = stopped.experiment
    lines = toml.read_text().splitlines()
    toml.write_text("\n".join('source = "own.txt"' if line.startswith("source = ") else line for line in lines))
    run = stopped.path.absolute()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    told = command("run", run)
    last = f"{run} was started in {tmp_path}; continue it in that folder"
    assert (told.code, told.err.splitlines()[-1]) == (2, last)
    assert "dataset.source: 'own.txt' matches no file" in told.err


def test_extending_an_experiment_by_its_name_is_answered_with_its_newest_finished_run(
    command: Command,
) -> None:
    finished, _ = make_run("tiny"), make_run("tiny", "interrupted")
    told = command("run", "tiny", "--extend", 5)
    assert (told.code, told.err.splitlines()[0].endswith(f"nanogpt-kit run {finished} --extend 5")) == (2, True)


def test_without_an_experiment_and_a_run_the_argument_is_missing(command: Command) -> None:
    told = command("run", "--resume")
    assert (told.code, "missing argument" in told.err) == (2, True)
