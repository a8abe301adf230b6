"""Whole sweeps, each trial a process: how trials end, what is written, and what goes on after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.sweep import preview
from nanogpt_kit.sweep.study.records import TrialResult
from nanogpt_kit.sweep.study.stored_sweep import read_sweep_folder

MakeSweep = Callable[..., Any]
X = '"evaluator.0.x" = { float = [0.0, 1.0] }'


def trials(sweep: Any) -> list[FrozenTrial]:
    import optuna

    from nanogpt_kit.sweep.study.storage import open_storage

    named = "sqlite" if (sweep.folder / "study.db").exists() else "journal"
    storage = open_storage(named, sweep.folder, for_reading=True)
    try:
        return optuna.load_study(study_name="tiny", storage=storage).get_trials()
    finally:
        if isinstance(storage, optuna.storages.RDBStorage):
            storage.engine.dispose()  # else its open file is warned of, some tests later


def result_of(trial: FrozenTrial) -> TrialResult:
    result = TrialResult.of(trial)
    assert result is not None
    return result


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it does not come that far"
        time.sleep(0.02)


def records(sweep: Any, trial: int, seed: int = 1337) -> list[dict[str, Any]]:
    return list(read_metrics(sweep.folder / f"trial-{trial:04d}-s{seed}" / "metrics.jsonl"))


def test_each_way_a_trial_can_end(make_sweep: MakeSweep) -> None:
    space = """
[sweep.space."evaluator.0.trouble".choice.none]
"evaluator.0.x" = { choice = [0.5, 0.25] }
[sweep.space."evaluator.0.trouble".choice]
memory = {}
no_number = {}
crash = {}
refused = {}
"""
    sweep = make_sweep('storage = "sqlite"\nsampler = "grid"\nworkers = 2', space, 'callback=["tensorboard"]')
    said = sweep.run()
    found = {(t.params["evaluator.0.trouble"], t.params.get("evaluator.0.x")): t for t in trials(sweep)}
    assert len(found) == 6, "each point of the grid once; twenty trials were asked for"
    causes = Counter(result_of(t).cause for t in found.values())
    assert causes == {"complete": 2, "oom": 1, "not_finite": 1, "error": 1, "refused": 1}
    states = {result_of(t).cause: t.state.name for t in found.values()}
    assert states["error"] == "FAIL"
    assert states["oom"] == states["not_finite"] == states["refused"] == "PRUNED"
    assert found["none", 0.25].value == (0.25 - 0.3) ** 2 + 1 / 3, "the last of three evaluations counts"
    assert "a bug, in evaluation 1" in result_of(found["crash", None]).reason
    assert "x = 0.5 cannot be" in result_of(found["refused", None]).reason
    starts = {key: count_starts(sweep, trial.number) for key, trial in found.items()}
    assert starts["crash", None] == 2, "a crash is tried again once"
    assert starts["memory", None] == starts["no_number", None] == starts["none", 0.5] == 1
    assert "lowest value: trial" in said
    assert "evaluator.0.x=0.25" in said

    shown = {
        (values["evaluator.0.trouble"].string_value, values["train.seed"].number_value) for values in hparams(sweep)
    }
    assert shown >= {("none", 1337), ("memory", 1337), ("no_number", 1337), ("crash", 1337)}
    assert {0.5, 0.25} <= {values["evaluator.0.x"].number_value for values in hparams(sweep)}
    told = sweep.status()
    assert told["counts"] == {**dict.fromkeys(told["counts"], 0), "complete": 2, "pruned": 3, "failed": 1}
    assert told["best"] == found["none", 0.25].number
    assert (sweep.folder / "report.html").stat().st_size > 1000
    summary, study, _ = read_sweep_folder(sweep.folder)  # without the experiment's file
    study._storage._backend.engine.dispose()  # type: ignore[attr-defined]
    assert (summary.counts(), summary.best()) == (told["counts"], summary.trials[told["best"]])
    assert summary.options == Experiment.load(sweep.path).sweep


def count_starts(sweep: Any, trial: int) -> int:
    log = sweep.folder / "trials" / f"trial-{trial:04d}-s1337.log"
    return log.read_text().count("compile off: ")


def hparams(sweep: Any) -> list[Any]:
    """The options of each trial's runs that TensorBoard shows."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.plugins.hparams import metadata

    return [
        metadata.parse_session_start_info_plugin_data(value.metadata.plugin_data.content).hparams
        for path in sweep.folder.glob("trial-*/events.out.tfevents.*")
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
        if value.tag == metadata.SESSION_START_INFO_TAG
    ]


def test_two_controllers_share_a_sweep_confirm_its_best_and_best_toml_gives_the_loss_again_to_the_bit(
    make_sweep: MakeSweep,
) -> None:
    space = """
"optimizer.lr" = { float = [1e-5, 1e-1], log = true }
"model.mlp" = { choice = ["gelu", "relu2"] }
"""
    options = "trials = 3\nconfirm = 1\nconfirm_seeds = 2"
    sweep = make_sweep(options, space, "train.threads=1", metric="val/loss")
    controllers = [sweep.start(), sweep.start()]
    said = [controller.communicate(timeout=240)[1] for controller in controllers]
    assert [controller.returncode for controller in controllers] == [0, 0], said
    assert [trial.state.name for trial in trials(sweep)] == ["COMPLETE"] * 3
    assert [count_starts(sweep, trial) for trial in range(3)] == [1, 1, 1], "each trial was run once"
    best = next(trial for trial in trials(sweep) if trial.number == sweep.status()["best"])
    again = sweep.path.parent / "again"
    best_file = sweep.folder / "best.toml"
    subprocess.run([sys.executable, "-m", "nanogpt_kit", "run", str(best_file), f"--into={again}"], check=True)
    mine = [record for record in read_metrics(again / "metrics.jsonl") if "val/loss" in record]
    theirs = [record for record in records(sweep, best.number) if "val/loss" in record]
    assert [record["val/loss"] for record in mine] == [record["val/loss"] for record in theirs]
    assert mine[-1]["val/loss"] == best.value
    header = best_file.read_text().split("name =")[0]
    assert f"trial {best.number}" in header
    assert "2 fresh seeds" in header
    confirmed = {one["trial"]: one["by_seed"] for one in sweep.status()["confirmed"]}
    assert {0, best.number} <= confirmed.keys()
    assert len({*confirmed[best.number].values(), best.value}) == 3, "two fresh seeds, and neither is the trial's own"
    assert [path.name for path in sorted(sweep.folder.glob(f"trial-{best.number:04d}-s*"))] == [
        f"trial-{best.number:04d}-s{seed}" for seed in (1337, 1338, 1339)
    ]
    assert all("confirmed: trial" in text for text in said)


def test_a_sweep_goes_on_after_ctrl_c_after_kill_9_and_with_a_torn_journal(
    make_sweep: MakeSweep, command: Callable[..., Any]
) -> None:
    sweep = make_sweep("trials = 2", X, "train.steps=300", "evaluate.every_steps=150", "checkpoint.every_steps=20")
    process = sweep.start()

    def has_saved(trial: int) -> bool:
        return any((sweep.folder / f"trial-{trial:04d}-s1337" / "checkpoints").glob("step-*"))

    wait_for(lambda: has_saved(0), process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    status = RunFolder(sweep.folder / "trial-0000-s1337").status()
    assert (status.state, status.reason) == ("interrupted", "SIGTERM"), "it has saved and ended in order"
    assert sweep.status()["counts"]["interrupted"] == 1
    reached = status.step

    process = sweep.start()
    wait_for(lambda: has_saved(1), process)
    process.kill()
    process.communicate()
    assert sweep.status()["counts"]["complete"] == 1, "what a dead controller has done can be read"
    with (sweep.folder / "study.journal").open("ab") as journal:
        journal.write(b'{"op_code":5,"worker_id":"x')
    process = sweep.start("--trials=3")  # more of the same may be asked for
    wait_for(lambda: bool(sweep.processes()), process)
    sweep.kill_trials()  # under a controller that lives
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert not sweep.processes()
    found = trials(sweep)
    assert [trial.state.name for trial in found] == ["COMPLETE"] * 3
    assert len({trial.params["evaluator.0.x"] for trial in found}) == 3
    log = (sweep.folder / "trials" / "trial-0000-s1337.log").read_text()
    assert log.count("compile off: ") == 2, "the interrupted trial went on once"
    steps = [record["step"] for record in records(sweep, 0)]
    assert steps == sorted(steps)
    assert reached < 300
    assert steps[-1] == 300

    whole = sweep.path.read_text()
    sweep.path.write_text(whole.replace("steps = 300", "steps = 600").replace("1.0,\n", "2.0,\n"))
    said = command("sweep", sweep.path).err
    for key, value in {"sweep.space.evaluator.0.x": "float [0.0, 2.0] now", "train.steps": "600 now"}.items():
        assert any(key in line and value in line for line in said.splitlines()), said


@pytest.mark.slow
def test_the_same_bug_three_times_in_a_row_ends_the_sweep(make_sweep: MakeSweep) -> None:
    sweep = make_sweep("trials = 9\nworkers = 2", X, 'evaluator=[{ use = "planted", trouble = "crash" }]')
    said = sweep.run(code=1)
    assert "3 trials in a row failed" in said
    assert "a bug, in evaluation 1" in said
    assert ".log" in said
    assert not sweep.processes()
    assert sum(trial.state.is_finished() for trial in trials(sweep)) == 2, "the third is tried again after a repair"


@pytest.mark.slow
def test_an_experiment_that_is_refused_as_it_is_written_ends_the_sweep_at_once(make_sweep: MakeSweep) -> None:
    sweep = make_sweep("trials = 9", X, 'evaluator=[{ use = "planted", trouble = "refused" }]')
    said = sweep.run(code=2)
    assert "trial 0" in said
    assert "x = 0.5 cannot be" in said


@pytest.mark.slow
def test_a_metric_that_no_evaluator_gives_is_told_at_the_first_evaluation(make_sweep: MakeSweep) -> None:
    sweep = make_sweep("trials = 9", X, "train.steps=4000", metric="val/plantd")
    said = sweep.run(code=2)
    assert "'val/plantd'; did you mean 'val/planted'?" in said
    assert records(sweep, 0)[-1]["step"] < 4000


@pytest.mark.slow
def test_budgets_end_a_sweep_and_a_trial_is_the_mean_of_its_seeds(make_sweep: MakeSweep) -> None:
    sweep = make_sweep("trials = 9\nseeds = 2\nmax_tokens = 900", X, metric="val/loss")  # a run has 480
    assert "sweep.max_tokens = 900" in sweep.run()
    [trial] = trials(sweep)[:1]
    values = [records(sweep, 0, seed)[-1]["val/loss"] for seed in (1337, 1338)]
    assert values[0] != values[1]
    assert trial.value == sum(values) / 2
    assert list(result_of(trial).values) == values
    assert sweep.status()["counts"]["complete"] == 1
    sweep.run("sweep.max_tokens=1500")
    assert sweep.status()["counts"]["complete"] == 2, "with a higher one it goes on"


@pytest.mark.slow
def test_a_password_is_written_nowhere(make_sweep: MakeSweep, tmp_path: Path) -> None:
    secret = "h0rse-battery"
    url = f"postgresql://me:{secret}@127.0.0.1:1/none"
    sweep = make_sweep(f'trials = 1\nstorage = "{url}"', X)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    text = sweep.path.read_text()
    sweep.path.write_text(text.replace(url, "journal"))
    subprocess.run([*git, "add", str(sweep.path)], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "without it"], check=True)
    sweep.path.write_text(text)
    said = sweep.run(code=2)
    assert secret not in said
    assert "postgresql://me:***@127.0.0.1:1/none cannot be reached" in said
    subprocess.run(
        [sys.executable, "-m", "nanogpt_kit", "sweep", str(sweep.path), "--storage=journal"],
        cwd=tmp_path,
        env=dict(os.environ),
        capture_output=True,
        check=True,
    )
    written = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert any(path.name == "dirty.patch" and b"storage" in path.read_bytes() for path in written)
    assert not [path for path in written if secret.encode() in path.read_bytes()]


def test_status_and_preview_say_what_is_missing(
    make_sweep: MakeSweep, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview, "estimate_speed", lambda *_: preview.RunSpeed(1000.0, "measured", None))
    sweep = make_sweep("trials = 9", X)
    assert "no sweep has begun there" in command("sweep", "status", sweep.path).err
    plain = sweep.path.with_name("tiny.toml")
    assert "there is no [sweep] table" in command("sweep", plain).err
    told = command("sweep", sweep.path, "--preview", "sweep.pruner=asha", "sweep.trials=9", "sweep.confirm=2")
    assert told.code == 0, told.err
    assert "9 trials, chosen by tpe, val/planted minimized" in told.out
    assert "asha: about 3 of them continue after 53 tokens" in told.out
    assert "4,320 tokens at most" in told.out
    assert json.dumps("evaluator.0.x")[1:-1] in told.out


@pytest.mark.slow
def test_a_preview_times_an_experiment_that_has_no_runs(make_sweep: MakeSweep, command: Callable[..., Any]) -> None:
    told = command("sweep", make_sweep("trials = 9", X).path, "--preview")
    assert told.code == 0, told.err
    assert f"measured for {preview.TIMED_SECONDS:g} seconds" in told.out
