"""Training longer: in place where the schedule allows it, from a kept checkpoint where it does not, to the bit."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.checkpoint import store
from nanogpt_kit.checkpoint.manifest import Manifest
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.runs.folder import RunFolder, runs_of_experiment
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.system.reading import sha256_file
from nanogpt_kit.train import session
from nanogpt_kit.train.extension import equal_steps

pytestmark = pytest.mark.usefixtures("with_dropout")
Same = Callable[[Any, Any], None]
Command = Callable[..., Any]
KEEP = "checkpoint.keep_every_steps=4"
OPTIONS = ("callback=[]", "sample.num_samples=0", "train.compile=off", "checkpoint.every_steps=4")
WSD = "schedule={use='wsd', warmup_steps=3, decay_fraction=0.4}"  # of 20 steps, the last 8 decay; of 30, the last 12
CONSTANT = "schedule={use='constant', warmup_steps=3}"
COSINE = "schedule={use='cosine', warmup_steps=3}"
TIMING = ("seconds", "perf/tokens_per_second", "memory/peak_bytes")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NANOGPT_KIT_RUNS")


def trained(tiny: Path, *overrides: str) -> RunFolder:
    return session.run(Experiment.load(tiny, [*OPTIONS, *overrides]))


@pytest.fixture
def first(tiny: Path, once: Callable[..., list[RunFolder]]) -> RunFolder:
    """A run with a stable part, all whose checkpoints are kept."""
    [run] = once("extended", lambda: trained(tiny, WSD, KEEP))
    return RunFolder(run.path.relative_to(Path.cwd()))


def runs() -> list[RunFolder]:
    return runs_of_experiment(Path("runs/tiny"))


def result(folder: RunFolder) -> dict[str, Any]:
    """All that two equal runs have in common, to the bit."""
    checkpoint = store.newest_whole_checkpoint(folder.checkpoints)
    assert checkpoint is not None
    training = store.load_training(checkpoint)
    del training["seconds"]
    metrics = [{key: line[key] for key in line if key not in TIMING} for line in read_metrics(folder.metrics)]
    return {"weights": sha256_file(checkpoint / store.MODEL), "training": training, "metrics": metrics}


def files(folder: RunFolder) -> dict[Path, tuple[int, str]]:
    paths = sorted(path for path in folder.path.rglob("*") if path.is_file())
    return {path: (path.stat().st_mtime_ns, sha256_file(path)) for path in paths}


def last_command(text: str) -> list[str]:
    return shlex.split(text.rpartition("nanogpt-kit ")[2])


def test_a_new_run_from_a_kept_checkpoint_equals_the_longer_run_to_the_bit(
    tiny: Path, first: RunFolder, command: Command, assert_same: Same
) -> None:
    before = files(first)
    refused = command("run", first.path, "--extend", 10)
    assert refused.code == 2
    assert "train.steps: 30 now, 20 in " in refused.err
    words = last_command(refused.err)
    assert words == ["run", f"{first.path}@12", "--extend", "10"]  # of 20 steps, the first 13 have the peak rate
    done = command(*words)
    assert done.code == 0, done.err
    second = runs()[-1]
    assert (len(runs()), second.status().step, f"finished: {second}" in done.err) == (2, 30, True)
    assert files(first) == before
    assert_same(result(second), result(trained(tiny, WSD, KEEP, "name=whole", "train.steps=30")))
    checkpoint = first.checkpoints / "step-00000012"
    origin = second.provenance().branched_from
    assert origin is not None
    assert (origin.checkpoint, origin.sha256) == (str(checkpoint), Manifest.read(checkpoint).weights_hash)


def test_a_new_run_from_a_checkpoint_resumes_like_any_run(
    tiny: Path, first: RunFolder, command: Command, monkeypatch: pytest.MonkeyPatch, assert_same: Same
) -> None:
    update = session.Trainer.update

    def interrupt(run: Any, batch: Any) -> Any:
        if run.step == 14:
            raise KeyboardInterrupt
        return update(run, batch)

    with monkeypatch.context() as patch:
        patch.setattr(session.Trainer, "update", interrupt)
        told = command("run", f"{first.path}@8", "train.steps=26")
    second = runs()[-1]
    assert (told.code, len(runs()), last_command(told.err)) == (130, 2, ["run", str(second.path)])
    shutil.rmtree(first.path)
    assert command(*last_command(told.err)).code == 0
    assert_same(result(second), result(trained(tiny, WSD, KEEP, "name=whole", "train.steps=26")))


def test_a_shorter_run_may_begin_from_the_stable_part(
    tiny: Path, first: RunFolder, command: Command, assert_same: Same
) -> None:
    assert command("run", f"{first.path}@8", "train.steps=14").code == 0
    assert_same(result(runs()[-1])["weights"], result(trained(tiny, WSD, "name=whole", "train.steps=14"))["weights"])


@pytest.mark.parametrize("processes", [1, 2])
def test_a_schedule_without_an_end_is_extended_in_place(
    tiny: Path, command: Command, assert_same: Same, processes: int
) -> None:
    folder = trained(tiny, CONSTANT, "train.device=cpu")
    done = command("run", folder.path, "--extend", 6, "--nproc", processes)
    assert done.code == 0, done.err
    assert (runs(), folder.status().step) == ([folder], 26)
    assert "steps = 26" in folder.experiment.read_text()
    if processes == 1:
        whole = trained(tiny, CONSTANT, "train.device=cpu", "name=whole", "train.steps=26")
        assert_same(result(folder)["weights"], result(whole)["weights"])


def test_a_run_stopped_in_its_stable_part_is_extended_in_place(
    tiny: Path, first: RunFolder, command: Command, assert_same: Same
) -> None:
    for step in (16, 20):
        shutil.rmtree(first.checkpoints / f"step-{step:08d}")
    first.set_status("interrupted", step=12, total_steps=20)
    assert command("run", first.path, "--extend", 10).code == 0
    whole = trained(tiny, WSD, KEEP, "name=whole", "train.steps=30")
    assert_same(result(first)["weights"], result(whole)["weights"])


def test_a_budget_of_tokens_grows_with_the_steps(tiny: Path, command: Command) -> None:
    folder = trained(tiny, CONSTANT, "train.max_tokens=850")  # 10 steps of 80 tokens
    assert command("run", folder.path, "--extend", 3).code == 0
    assert folder.status().step == 13


def test_a_decaying_schedule_names_a_new_run_from_the_weights(tiny: Path, command: Command) -> None:
    folder = trained(tiny, COSINE)
    told = command("run", folder.path, "train.steps=25")
    assert told.code == 2
    assert f"train.steps: 25 now, 20 in {folder}; the schedule depends on it" in told.err
    assert "@" not in told.err
    weights, stable = (shlex.split(line.partition("nanogpt-kit ")[2]) for line in told.err.splitlines()[-2:])
    assert weights == ["run", f"{folder}/experiment.toml", f"model.init_from={folder}", "train.steps=5"]
    assert command(*weights).code == 0
    assert (len(runs()), runs()[-1].status().step) == (2, 5)
    settings = ["schedule=wsd", "schedule.warmup_steps=3", "checkpoint.keep_every_steps=4"]
    assert stable == ["run", f"{folder}/experiment.toml", *settings]
    assert command(*stable).code == 0
    refused = command("run", runs()[-1].path, "--extend", 8)
    assert command(*last_command(refused.err)).code == 0  # from the checkpoint of step 16, where the decay begins
    assert runs()[-1].status().total_steps == 28


def test_where_no_checkpoint_of_the_stable_part_was_kept_the_option_is_named(tiny: Path, command: Command) -> None:
    folder = trained(tiny, WSD)
    told = command("run", folder.path, "--extend", 10)
    assert "both schedules are equal up to step 13" in told.err
    assert "checkpoint.keep_every_steps=4" in told.err


def test_a_damaged_checkpoint_is_not_offered(first: RunFolder, command: Command) -> None:
    (first.checkpoints / "step-00000012" / store.MODEL).write_bytes(b"")
    assert last_command(command("run", first.path, "--extend", 10).err)[1] == f"{first}@8"
    refused = command("run", f"{first}@12", "--extend", 10)
    assert (refused.code, "step-00000012 is damaged" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("step", "options", "expected"),
    [
        (13, ("--extend", 10), "has no checkpoint of step 13; there are: 4, 8, 12, 16, 20"),
        (16, ("--extend", 10), "the schedule depends on it"),
        (8, (), "--extend STEPS"),
        (8, ("train.steps=8",), "train.steps should be more than 8"),
        (8, ("--extend", 10, "optimizer.lr=0.5"), "optimizer.lr: 0.5 now, 0.003 in"),
        (8, ("--extend", 10, "train.steps=40"), "--extend and train.steps"),
        (8, ("--extend", 10, "--into=other"), "remove --into"),
    ],
)
def test_a_new_run_from_a_checkpoint_that_would_differ_is_refused_and_leaves_nothing(
    first: RunFolder, command: Command, step: int, options: tuple[Any, ...], expected: str
) -> None:
    refused = command("run", f"{first.path}@{step}", *options)
    assert (refused.code, expected in refused.err) == (2, True), refused.err
    assert [path.name for path in Path("runs/tiny").iterdir()] == [first.path.name]


def test_a_full_disk_leaves_no_half_copied_run(first: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:

    def fill(*words: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", fill)
    with pytest.raises(KitError, match="No space left on device"):
        session.run(Experiment.load(first.experiment, ["train.steps=30"]), resume=f"{first.path}@12")
    assert [path.name for path in Path("runs/tiny").iterdir()] == [first.path.name]


@pytest.mark.parametrize(("schedule", "total", "shared"), [(WSD, 30, 13), (COSINE, 30, 4), (CONSTANT, 9, 9)])
def test_steps_are_equal_where_the_schedule_gives_the_same_rates(
    tiny: Path, schedule: str, total: int, shared: int
) -> None:
    experiment = Experiment.load(tiny, [schedule])
    (one,) = experiment.schedules
    rates = [[one.multiplier(step, end) for step in range(min(20, total))] for end in (20, total)]
    assert rates[0][:shared] == rates[1][:shared]
    assert rates[0][shared : shared + 1] != rates[1][shared : shared + 1] or shared == min(20, total)
    assert equal_steps(experiment, experiment.with_({"train.steps": total}), 20) == shared


def test_a_run_of_very_many_steps_that_a_budget_of_seconds_ended_is_extended_at_once(
    tiny: Path, command: Command
) -> None:
    run = trained(tiny, CONSTANT, f"train.steps={10**11}", "train.max_seconds=1e-9")
    told = command("run", run, "--extend", 5, f"train.max_seconds={run.status().seconds + 0.03}")
    assert (told.code, run.status().total_steps) == (0, 10**11 + 5)
    run.set_status("finished", ended_by="callback", step=3, total_steps=10**11 + 5)
    told = command("run", run)
    assert told.err.splitlines()[-1] == f"to train longer: nanogpt-kit run {run} --extend STEPS"


def test_the_summary_of_a_branch_names_the_checkpoint_it_begins_from(first: RunFolder, command: Command) -> None:
    told = command("run", f"{first}@8", "--extend", 10, "callback=['console']")
    assert f"branches from {first} at step 8 of 30\n" in told.err
    newest = runs()[-1]
    shutil.rmtree(newest.checkpoint(30))
    newest.set_status("interrupted")
    assert "resumes at step 28 of 30\n" in command("run", newest).err


@pytest.mark.parametrize(("reference", "steps"), [("{run}", 15), ("{run}@16", 19)])
def test_a_refusal_of_other_steps_names_a_new_run_with_them(
    first: RunFolder, command: Command, reference: str, steps: int
) -> None:
    told = command("run", reference.format(run=first), f"train.steps={steps}")
    last = f"train a new run: nanogpt-kit run {first}/experiment.toml train.steps={steps}"
    assert (told.code, told.err.splitlines()[-1]) == (2, last)
