"""Killed and resumed, a run is bit for bit the run that was never killed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nanogpt_kit.checkpoint import store
from nanogpt_kit.checkpoint.rng import seed_everything
from nanogpt_kit.components.optimizer.adamw import AdamW
from nanogpt_kit.core.errors import Busy, KitError, RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.runs.find import find_run
from nanogpt_kit.runs.folder import RunFolder, runs_root
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.system.reading import sha256_file
from nanogpt_kit.train import resume_point, session
from nanogpt_kit.train.resume import find_done_or_unfinished, load_run_to_resume
from nanogpt_kit.train.training_state import TrainingState

pytestmark = pytest.mark.usefixtures("with_dropout")
Same = Callable[[Any, Any], None]
FOLDERS = {"NANOGPT_KIT_RUNS": "runs", "NANOGPT_KIT_DATA": "data", "XDG_CACHE_HOME": "cache", "XDG_STATE_HOME": "state"}

KILLER = """\
import os, signal
from nanogpt_kit.api import Callback, hookimpl

class Killer(Callback):
    at: int

    def build(self, run):
        return Listener(self.at)

class Listener:
    def __init__(self, at):
        self.at = at

    @hookimpl
    def step_finished(self, step):
        if step == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_run(tiny: Path, at: int, *overrides: str) -> RunFolder:
    """A run in a process of its own that dies by SIGKILL right after step `at`."""
    (tiny.parent / "killer.py").write_text(KILLER, encoding="utf-8")
    callback = f'callback=[{{use="killer", at={at}}}]'
    command = [sys.executable, "-m", "nanogpt_kit", "run", str(tiny), 'components=["killer.py"]', callback, *overrides]
    died = subprocess.run(command, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    return find_run("tiny").folder


@pytest.fixture(scope="session")
def dead_folder(tmp_path_factory: pytest.TempPathFactory, tiny_text: str, tiny_source: str) -> Path:
    """A folder with a run of `tiny` that SIGKILL ended right after step 13, and what the program keeps about it."""
    folder = tmp_path_factory.mktemp("dead")
    (folder / "text.txt").write_text(tiny_source, encoding="utf-8")
    text = tiny_text.format(text=folder / "text.txt").replace("dropout = 0.0", "dropout = 0.1")
    (folder / "tiny.toml").write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        for variable, name in FOLDERS.items():
            patch.setenv(variable, str(folder / name))
        killed_run(folder / "tiny.toml", 13)
    return folder


@pytest.fixture
def killed(dead_folder: Path, tiny: Path) -> RunFolder:
    """A copy of that run, as if it had died in the folders of this test."""
    for name in ("runs", "state", "killer.py"):
        source = dead_folder / name
        if source.is_dir():
            shutil.copytree(source, tiny.parent / name)
        elif source.exists():
            shutil.copy(source, tiny.parent / name)
    run = find_run("tiny").folder
    for name in ("experiment.toml", "provenance.json"):
        text = (run.path / name).read_text(encoding="utf-8")
        (run.path / name).write_text(text.replace(str(dead_folder), str(tiny.parent)), encoding="utf-8")
    return run


def losses(folder: RunFolder) -> list[float]:
    return [line["train/loss"] for line in read_metrics(folder.metrics) if "train/loss" in line]


def whole_run(tiny: Path, *overrides: str) -> RunFolder:
    return session.run(Experiment.load(tiny, ["callback=[]", *overrides]))


def result(folder: RunFolder) -> dict[str, Any]:
    """All that two equal runs have in common, to the bit."""
    checkpoint = store.newest_whole_checkpoint(folder.checkpoints)
    assert checkpoint is not None
    timing = ("seconds", "perf/tokens_per_second", "memory/peak_bytes")
    metrics = [
        {key: value for key, value in line.items() if key not in timing} for line in read_metrics(folder.metrics)
    ]
    training = store.load_training(checkpoint)
    del training["seconds"], training["callbacks"]
    return {"weights": sha256_file(checkpoint / store.MODEL), "training": training, "metrics": metrics}


SECOND_EPOCH = (  # which begins in step 44, after the resume: 220 windows are left to train on, 5 a step
    *("train.steps=60", "checkpoint.every_steps=30", "evaluate.every_steps=21", "sample.num_samples=0"),
    "dataset.val_fraction=0.75",
)


def test_resume_equals_an_uninterrupted_run(tiny: Path, assert_same: Same) -> None:
    killed = killed_run(tiny, 37, *SECOND_EPOCH)
    assert killed.status().state == "interrupted"
    resumed = session.run(Experiment.load(tiny, ["callback=[]", *SECOND_EPOCH]), resume="")
    assert resumed == killed
    assert resumed.status().state == "finished"
    assert_same(result(resumed), result(whole_run(tiny, *SECOND_EPOCH)))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_resume_is_exact_in_short_types_too(tiny: Path, precision: str, assert_same: Same) -> None:
    options = (f"train.precision={precision}", "train.steps=16", "checkpoint.every_steps=5", "evaluate.every_steps=7")
    killed = killed_run(tiny, 13, *options)
    session.run(Experiment.load(tiny, ["callback=[]", *options]), resume=str(killed))
    assert_same(result(killed), result(whole_run(tiny, *options)))


def test_dropout_resumes_exactly_whatever_the_random_state(
    tiny: Path, killed: RunFolder, monkeypatch: pytest.MonkeyPatch, assert_same: Same
) -> None:
    monkeypatch.setattr(resume_point, "set_rng_state", lambda state: seed_everything(99))
    session.run(Experiment.load(tiny, ["callback=[]"]), resume="")
    resumed, whole = result(killed), result(whole_run(tiny))
    assert_same(resumed["metrics"], whole["metrics"])
    assert_same(resumed["weights"], whole["weights"])


OWN_DRAWS = """\
import torch.nn.functional as F
from nanogpt_kit.api import MLP, ResidualLinear

class OwnDraws(MLP):
    def build(self, ctx):
        return Drawing(ctx.n_embd, ctx.n_embd)

class Drawing(ResidualLinear):
    def forward(self, x):
        return F.dropout(super().forward(x), 0.2, self.training)
"""


def test_without_random_state_what_a_component_draws_would_not_resume_exactly(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, assert_same: Same
) -> None:
    tiny.with_name("own_draws.py").write_text(OWN_DRAWS, encoding="utf-8")
    options = ("components=['killer.py', 'own_draws.py']", "model.mlp=own_draws", "model.dropout=0")
    killed = killed_run(tiny, 13, *options)
    monkeypatch.setattr(resume_point, "set_rng_state", lambda state: None)
    session.run(Experiment.load(tiny, ["callback=[]", *options]), resume=str(killed))
    with pytest.raises(AssertionError):
        assert_same(result(killed)["metrics"], result(whole_run(tiny, *options))["metrics"])


def test_a_run_killed_before_its_first_checkpoint_starts_again(tiny: Path, assert_same: Same) -> None:
    killed = killed_run(tiny, 4)
    session.run(Experiment.load(tiny, ["callback=[]"]), resume="")
    assert_same(result(killed), result(whole_run(tiny)))


def test_each_step_is_in_the_metrics_once(tiny: Path, killed: RunFolder) -> None:
    session.run(Experiment.load(tiny, ["callback=[]"]), resume="")
    steps = [line["step"] for line in read_metrics(killed.metrics) if "train/loss" in line]
    assert steps == list(range(1, 21))


def test_metrics_are_on_the_disk_before_the_checkpoint_after_them(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[tuple[int, int] | str] = []  # inode and size of what was synced, and that a checkpoint was renamed
    sync, rename = os.fsync, Path.rename

    def watched_sync(fd: int) -> None:
        events.append((os.fstat(fd).st_ino, os.fstat(fd).st_size))
        sync(fd)

    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(Path, "rename", lambda path, to: (events.append(to.name), rename(path, to))[1])
    metrics = whole_run(tiny, "train.steps=3", "sample.num_samples=0").metrics.stat()  # nothing is logged after saving
    assert (metrics.st_ino, metrics.st_size) in events[: events.index("step-00000003")]


def kill_while_saving(tiny: Path, times: int) -> None:
    """Saves after every step, and is killed again and again at no particular moment of that."""
    dice = torch.Generator().manual_seed(0)
    command = [sys.executable, "-m", "nanogpt_kit", "run", str(tiny), "train.steps=1000000", "schedule=constant"]
    options = ["checkpoint.every_steps=1", "model.n_embd=192", "callback=[]"]
    for number in range(times):
        resume = ["--resume"] if number else []
        process = subprocess.Popen([*command, *options, *resume], stderr=subprocess.PIPE, text=True)
        before = newest_step() if number else 0
        while newest_step() < before + 2:
            assert process.poll() is None, process.communicate()[1]
        try:
            process.wait(timeout=float(torch.rand((), generator=dice)) * 0.2)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        checkpoint = store.newest_whole_checkpoint(find_run("tiny").folder.checkpoints)
        assert checkpoint is not None
        assert store.load_training(checkpoint)["step"] == json.loads((checkpoint / store.MANIFEST).read_text())["step"]
    leftovers = list(find_run("tiny").folder.checkpoints.glob(".step-*"))
    assert len(leftovers) <= 1, "each process clears what the one before it left"


def newest_step() -> int:
    try:
        found = sorted(find_run("tiny").folder.checkpoints.glob("step-*"))
    except KitError:
        return 0
    return int(found[-1].name.removeprefix("step-")) if found else 0


def test_killed_while_saving_it_always_leaves_a_whole_checkpoint(tiny: Path) -> None:
    kill_while_saving(tiny, times=2)  # once as it began, once as it was resumed


@pytest.mark.slow
def test_killed_while_saving_thirty_times_it_always_leaves_a_whole_checkpoint(tiny: Path) -> None:
    kill_while_saving(tiny, times=30)


def test_a_resumed_run_refuses_another_learning_rate_and_says_which(tiny: Path, killed: RunFolder) -> None:
    with pytest.raises(KitError, match=r"optimizer\.lr: 0\.5 .* 0\.003"):
        session.run(Experiment.load(tiny, ["callback=[]", "optimizer.lr=0.5"]), resume="")


def test_evaluation_and_callbacks_may_change_on_resume(tiny: Path, killed: RunFolder) -> None:
    folder = session.run(
        Experiment.load(tiny, ["callback=[]", "evaluate.every_steps=4", "checkpoint.keep_last=1"]), resume=""
    )
    assert [line["step"] for line in read_metrics(folder.metrics) if "val/loss" in line] == [10, 12, 16, 20]
    assert len(list(folder.checkpoints.glob("step-*"))) == 1


def test_steps_grow_only_where_the_schedule_does_not_depend_on_them(tiny: Path, assert_same: Same) -> None:
    constant = ["callback=[]", "schedule=constant", "sample.num_samples=0"]
    folder = session.run(Experiment.load(tiny, constant))
    longer = session.run(Experiment.load(tiny, [*constant, "train.steps=30"]), resume=str(folder))
    assert longer == folder
    assert_same(result(longer)["weights"], result(whole_run(tiny, *constant[1:], "train.steps=30"))["weights"])
    other = session.run(Experiment.load(tiny, ["callback=[]"]))
    with pytest.raises(KitError, match="the schedule depends on it"):
        session.run(Experiment.load(tiny, ["callback=[]", "train.steps=30"]), resume=str(other))


# --- which run a resume without a name takes ----------------------------------------------------------------------


def ran(
    tiny: Path, place: str, state: str = "finished", steps: int = 20, seed: int = 1337, **details: Any
) -> RunFolder:
    """A run that ended so, as far as who looks for it can see; `place` is its time among the others."""
    wanted = Experiment.load(tiny, [f"train.steps={steps}", f"train.seed={seed}"])
    folder = RunFolder(runs_root() / "tiny" / f"20260102-0304{place}000-s{seed}-aaaaaa")
    folder.path.mkdir(parents=True)
    folder.experiment.write_text(wanted.to_toml())
    ended_by = {"finished": "steps", "interrupted": "signal"}.get(state)
    folder.set_status(state, **{"ended_by": ended_by, "step": steps, "total_steps": steps, **details})
    return folder


def resumed(tiny: Path, *overrides: str) -> RunFolder:
    return load_run_to_resume(Experiment.load(tiny, overrides), "", trust_code=False).folder


CONSTANT = "schedule={use='constant'}"


@pytest.mark.parametrize("wanted", ["train.steps=20", "train.steps=30", "train.max_seconds=9"])
def test_a_resume_without_a_name_extends_no_finished_run(tiny: Path, wanted: str) -> None:
    ran(tiny, "05", steps=10)
    newest = ran(tiny, "06", steps=20)
    ran(tiny, "07", "finished", 0, imported=True)
    with pytest.raises(KitError, match=f"all are finished\nto train .*: nanogpt-kit run {newest} --extend STEPS"):
        resumed(tiny, CONSTANT, wanted)


def test_a_run_that_a_budget_of_seconds_ended_is_finished(tiny: Path) -> None:
    spent = ran(tiny, "05", ended_by="max_seconds", step=7, seconds=3.5)
    with pytest.raises(KitError, match=f"nanogpt-kit run {spent}"):
        resumed(tiny, "train.max_seconds=9")


def test_the_newest_unfinished_run_is_resumed_whatever_finished_after_it(tiny: Path) -> None:
    ran(tiny, "05", "interrupted", step=3)
    newest = ran(tiny, "06", "failed", step=9)
    ran(tiny, "07")
    assert resumed(tiny) == newest


def test_of_several_seeds_that_of_the_experiment_is_resumed(tiny: Path) -> None:
    mine = ran(tiny, "05", "interrupted", step=3)
    other = ran(tiny, "06", "interrupted", step=9, seed=7)
    assert resumed(tiny) == mine
    assert resumed(tiny, "train.seed=7") == other


def test_a_busy_run_is_skipped_and_named_where_it_is_the_only_one(tiny: Path) -> None:
    older = ran(tiny, "05", "interrupted", step=3)
    working = ran(tiny, "06", "running")
    with working.lock():
        assert resumed(tiny) == older
        older.set_status("finished", ended_by="steps", step=20, total_steps=20)
        with pytest.raises(Busy, match=f"{working}, which is being used by another process"):
            resumed(tiny)


def test_a_finished_run_that_is_named_continues_with_more_steps(tiny: Path) -> None:
    older = ran(tiny, "05", steps=10)
    ran(tiny, "06", steps=20)
    older.experiment.write_text(Experiment.load(tiny, [CONSTANT, "train.steps=10"]).to_toml())
    found = load_run_to_resume(Experiment.load(tiny, [CONSTANT, "train.steps=15"]), str(older.path), trust_code=False)
    assert (found.folder, found.step, found.experiment.total_steps) == (older, None, 15)
    with pytest.raises(KitError, match="is finished"):
        load_run_to_resume(Experiment.load(tiny, [CONSTANT, "train.steps=10"]), str(older.path), trust_code=False)


@pytest.mark.parametrize("steps", [10, 20, 30])
def test_a_seed_is_done_resumed_or_begun_and_no_finished_run_of_it_is_extended(tiny: Path, steps: int) -> None:
    wanted = Experiment.load(tiny, [f"train.steps={steps}", "train.seed=7"])
    assert find_done_or_unfinished(wanted) == (None, None)
    ran(tiny, "05", steps=20)  # of another seed
    assert find_done_or_unfinished(wanted) == (None, None)
    mine = ran(tiny, "06", steps=20, seed=7)
    if steps <= 20:
        assert find_done_or_unfinished(wanted) == (mine, None)
    else:
        with pytest.raises(KitError, match=f"nanogpt-kit run {mine} --extend"):
            find_done_or_unfinished(wanted)
    unfinished = ran(tiny, "07", "failed", seed=7)
    assert find_done_or_unfinished(wanted) == ((mine, None) if steps <= 20 else (None, str(unfinished)))


def test_a_run_of_another_format_is_refused_and_one_with_a_damaged_status_resumes(
    tiny: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = ran(tiny, "05", "interrupted", step=3)
    for content, found in (
        ('{"format": 3}', "is of format 3"),
        ('{"state": "interrupted"}', "does not name its format"),
    ):
        (run.path / "status.json").write_text(content)
        with pytest.raises(KitError) as refused:
            resumed(tiny)
        assert all(part in str(refused.value) for part in (str(run), f"status.json {found}", "format 2", "train again"))
    (run.path / "status.json").write_text('{"format": 2, "state": "interr')
    with caplog.at_level("INFO", "nanogpt_kit"):
        assert resumed(tiny) == run
    assert "status.json cannot be read" in caplog.text


def test_a_busy_run_is_not_resumed(tiny: Path) -> None:
    folder = session.run(Experiment.load(tiny, ["callback=[]"]))
    folder.set_status("failed", step=3)
    with folder.lock(), pytest.raises(Busy, match="being used by another process"):
        session.run(Experiment.load(tiny, ["callback=[]"]), resume=str(folder))


def test_a_training_state_of_another_format_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "step-00000003" / store.TRAINING
    with pytest.raises(KitError) as caught:
        TrainingState.from_dict({"format": 2, "step": 3}, file)
    assert all(part in str(caught.value) for part in (str(file), "format 2", "format 1"))


COUNTER = """\
from nanogpt_kit.api import Callback, hookimpl

class Counter(Callback):
    def build(self, run):
        return Listener(run.path / "counted")

class Listener:
    def __init__(self, path):
        self.path, self.count = path, 0

    @hookimpl
    def step_finished(self):
        self.count += 1

    @hookimpl
    def run_finished(self):
        self.path.write_text(str(self.count))

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]
"""


def test_a_callback_resumes_with_its_state(tiny: Path) -> None:
    (tiny.parent / "counter.py").write_text(COUNTER, encoding="utf-8")
    options = ["components=['counter.py']", "callback=['counter']", "schedule=constant"]
    folder = session.run(Experiment.load(tiny, options))
    session.run(Experiment.load(tiny, [*options, "train.steps=27"]), resume=str(folder))
    assert (folder.path / "counted").read_text() == "27"


def test_an_optimizer_that_orders_its_parameters_otherwise_is_refused_on_resume(
    tiny: Path, killed: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = AdamW.build

    def build_backwards(self: AdamW, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return build(self, [{**group, **{key: group[key][::-1] for key in ("params", "names")}} for group in groups])

    monkeypatch.setattr(AdamW, "build", build_backwards)
    with pytest.raises(KitError) as refused:
        session.run(Experiment.load(tiny, ["callback=[]"]), resume="")
    last = r"the optimizer has \S+ where it had wte.weight when the checkpoint was saved, so that one would get"
    assert re.search(last, str(refused.value))
    assert "use the version of its plugin that the run was made with" in str(refused.value)


def test_a_local_callback_may_join_on_resume(tiny: Path, killed: RunFolder) -> None:
    (tiny.parent / "counter.py").write_text(COUNTER, encoding="utf-8")
    session.run(Experiment.load(tiny, ["components=['counter.py']", "callback=['counter']"]), resume="")
    assert (killed.path / "counted").read_text() == "10"


def test_a_component_file_that_has_changed_is_reported_and_the_copy_in_the_run_is_used(
    tiny: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tiny.parent / "counter.py"
    file.write_text(COUNTER, encoding="utf-8")
    options = ["components=['counter.py']", "callback=['counter']", "schedule=constant"]
    folder = session.run(Experiment.load(tiny, options))
    file.write_text(f"{COUNTER}# changed", encoding="utf-8")
    with caplog.at_level("INFO", "nanogpt_kit"):
        session.run(Experiment.load(tiny, [*options, "train.steps=22"]), resume=str(folder))
    copy = folder.path / "components" / "counter.py"
    assert f"counter.py has changed since the run started, which continues with its copy, {copy}" in caplog.text
    assert copy.read_text() == COUNTER


def test_the_seconds_of_a_run_continue_after_a_resume(tiny: Path, killed: RunFolder) -> None:
    session.run(Experiment.load(tiny, ["callback=[]"]), resume="")
    seconds = [line["seconds"] for line in read_metrics(killed.metrics)]
    assert seconds == sorted(seconds)


def test_a_run_with_only_damaged_checkpoints_does_not_start_again(tiny: Path, killed: RunFolder) -> None:
    (killed.checkpoints / "step-00000010" / store.MANIFEST).unlink()
    with pytest.raises(KitError, match=r"every checkpoint in .* is damaged"):
        session.run(Experiment.load(tiny, ["callback=[]"]), resume="")
    assert len(list(read_metrics(killed.metrics))) > 10


def test_other_data_is_refused_on_resume(tiny: Path, text_file: Path, killed: RunFolder) -> None:
    text_file.write_text(text_file.read_text(encoding="utf-8").replace("times", "plus"), encoding="utf-8")
    with pytest.raises(KitError, match="was trained on other tokens"):
        session.run(Experiment.load(tiny, ["callback=[]"]), resume="")


def test_a_damaged_newest_checkpoint_is_skipped(
    tiny: Path, caplog: pytest.LogCaptureFixture, assert_same: Same
) -> None:
    killed = killed_run(tiny, 13, "checkpoint.every_steps=5")
    model = killed.checkpoints / "step-00000010" / store.MODEL
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    session.run(Experiment.load(tiny, ["callback=[]", "checkpoint.every_steps=5"]), resume="")
    assert "model.safetensors is not what was saved" in caplog.text
    assert_same(result(killed), result(whole_run(tiny, "checkpoint.every_steps=5")))


def dead_run(tiny: Path, step: int, *overrides: str) -> RunFolder:
    """A run that ends after a step without saving, as one that was killed."""
    (tiny.parent / "killer.py").write_text(KILLER.replace("os.kill(os.getpid(), signal.SIGKILL)", "raise SystemExit"))
    callback = f'callback=[{{use="killer", at={step}}}]'
    with pytest.raises(RunFailed):
        session.run(Experiment.load(tiny, ['components=["killer.py"]', callback, *overrides]))
    return find_run("tiny").folder


@pytest.mark.parametrize("checkpoints", ["none", "deleted"])
def test_a_resume_without_a_checkpoint_says_that_it_starts_again(
    tiny: Path, checkpoints: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = dead_run(tiny, 13 if checkpoints == "deleted" else 7)
    shutil.rmtree(folder.checkpoints, ignore_errors=True)
    session.run(Experiment.load(tiny, ["callback=[]"]), resume="")
    told = [record.getMessage() for record in caplog.records if "no checkpoint" in record.getMessage()]
    reached = 13 if checkpoints == "deleted" else 7
    assert told == [f"{folder.path} has no checkpoint, but its metrics reach step {reached}: it starts again at 0"]
    whole = session.run(Experiment.load(tiny, ["callback=[]", "name=whole"]))
    assert losses(folder) == losses(whole)


def test_a_resume_reports_metrics_that_end_before_the_checkpoint(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = dead_run(tiny, 13)
    lines = folder.metrics.read_bytes().splitlines(keepends=True)
    folder.metrics.write_bytes(b"".join(lines[:4]))
    session.run(Experiment.load(tiny, ["callback=[]"]), resume="")
    assert f"{folder.metrics} ends at step 4, before the checkpoint of step 10" in caplog.text


def test_a_resume_is_refused_where_a_line_of_the_metrics_is_damaged(tiny: Path) -> None:
    folder = dead_run(tiny, 13)
    whole = folder.metrics.read_bytes()
    folder.metrics.write_bytes(damaged := whole.replace(b'"step": 3,', b'"step: 3,'))
    files = sorted(path for path in folder.path.rglob("*"))
    with pytest.raises(KitError) as caught:
        session.run(Experiment.load(tiny, ["callback=[]"]), resume="")
    assert caught.value.faults[0].location == f"{folder.metrics}:3"
    assert folder.metrics.read_bytes() == damaged
    assert sorted(path for path in folder.path.rglob("*")) == files
    folder.metrics.write_bytes(whole)
    assert session.run(Experiment.load(tiny, ["callback=[]"]), resume="").status().state == "finished"


def test_a_run_that_is_not_resumed_reports_nothing(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    session.run(Experiment.load(tiny, ["callback=[]", "train.log_every_steps=7", "train.steps=10"]))
    shorter = ["callback=[]", "train.log_every_steps=7", "schedule=constant", "train.steps=3"]
    folder = session.run(Experiment.load(tiny, shorter))
    session.run(Experiment.load(tiny, [*shorter[:-1], "train.steps=5"]), resume=str(folder))
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == []
