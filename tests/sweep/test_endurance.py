"""Whole sweeps that take minutes: killed again and again, pruned, and timed."""

from __future__ import annotations

import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.launch import slot_process
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.sweep import session
from nanogpt_kit.sweep.study.storage import open_storage

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("real_processes", "with_dropout")]
MakeSweep = Callable[..., Any]
X = '"evaluator.0.x" = { float = [0.0, 1.0] }'
KILLS = 20
METRICS = "metrics.jsonl"


def trials(sweep: Any) -> list[optuna.trial.FrozenTrial]:
    storage = open_storage("journal", sweep.folder, for_reading=True)
    return optuna.load_study(study_name="tiny", storage=storage).get_trials()


@pytest.mark.parametrize("seed", [1, 2])
def test_twelve_trials_end_once_each_though_all_are_killed_at_twenty_moments(make_sweep: MakeSweep, seed: int) -> None:
    often = ("evaluate.every_steps=500", "checkpoint.every_steps=100", "train.log_every_steps=50")
    sweep = make_sweep(f"trials = 12\nworkers = {seed}", X, "train.steps=1500", *often)
    dice = random.Random(seed)
    kills = 0
    while kills < KILLS:
        process = sweep.start()
        time.sleep(dice.uniform(1.0, 6.0))
        if process.poll() is not None:
            output = process.communicate()
            assert process.returncode == 0, output
            break
        victims = dice.choice(["controller", "trials", "both", "trials first"])
        if victims in ("trials", "both", "trials first"):
            sweep.kill_trials()
        if victims == "trials first":
            time.sleep(dice.uniform(0, 1))
        if victims != "trials":
            process.send_signal(signal.SIGKILL)
        else:
            time.sleep(dice.uniform(0, 3))
            process.kill()
        process.communicate()
        kills += 1
    assert kills > KILLS / 2, "the sweep was so quick that it was hardly killed"
    sweep.run()
    deadline = time.monotonic() + 3
    while sweep.processes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not sweep.processes(), "stray processes"
    found = trials(sweep)
    assert [trial.state.name for trial in found] == ["COMPLETE"] * 12
    assert len({trial.params["evaluator.0.x"] for trial in found}) == 12
    assert len(list(sweep.folder.glob("trial-*/experiment.toml"))) == 12


def test_a_sweep_of_two_workers_that_is_stopped_fifteen_times_measures_what_one_does_that_is_not(
    make_sweep: MakeSweep,
) -> None:
    often = ("evaluate.every_steps=500", "checkpoint.every_steps=100", "train.log_every_steps=50")
    options = 'trials = 6\nworkers = 2\nsampler = "random"'
    whole = make_sweep(options, X, "train.steps=2000", "callback=['tensorboard']", "name=whole", *often)
    whole.run()
    expected = measured(whole.path.parent / "runs" / "whole" / "sweep")
    sweep = make_sweep(options, X, "train.steps=2000", "callback=['tensorboard']", *often)
    dice, stops = random.Random(3), 0
    while stops < 15:
        process = sweep.start()
        time.sleep(dice.uniform(2.0, 8.0))
        if process.poll() is not None:
            words = process.communicate()
            assert process.returncode == 0, words
            break
        name = dice.choice(["SIGKILL", "SIGTERM", "SIGHUP", "a trial"])
        if name == "a trial":
            sweep.kill_trials()
            time.sleep(dice.uniform(0, 2))
        process.send_signal(signal.SIGKILL if name == "a trial" else getattr(signal, name))
        process.communicate()
        stops += 1
    assert stops > 5, "the sweep was so quick that it was hardly stopped"
    sweep.run()
    assert measured(sweep.folder) == expected


def measured(folder: Path) -> dict[str, Any]:
    """What each trial has written down of its training, to the bit, and what TensorBoard shows of it."""
    found: dict[str, Any] = {}
    for trial in sorted(folder.glob("trial-*")):
        lines = [
            {key: line[key] for key in line if "loss" in key or key == "step"} for line in read_metrics(trial / METRICS)
        ]
        events = EventAccumulator(str(trial), size_guidance={"scalars": 0})
        events.Reload()
        curves = {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in ("Loss/train", "Loss/val")}
        found[trial.name] = lines, curves
    return found


def test_pruning_saves_half_of_the_tokens_at_an_equal_best(make_sweep: MakeSweep) -> None:
    """The planted metric falls with each evaluation towards its trial's own floor."""
    spent, best = {}, {}
    for pruner in ("none", "asha"):
        options = f'trials = 18\nsampler = "random"\nworkers = 2\npruner = "{pruner}"'
        sweep = make_sweep(options, X, "train.steps=270", "evaluate.every_steps=10", f"name=tiny-{pruner}")
        sweep.folder = sweep.folder.parents[1] / f"tiny-{pruner}" / "sweep"
        sweep.run()
        told = sweep.status()
        spent[pruner] = told["tokens"]
        best[pruner] = min(trial["value"] for trial in told["trials"] if trial["state"] == "complete")
    assert spent["asha"] <= spent["none"] / 2, spent
    assert best["asha"] == best["none"]


@pytest.mark.parametrize("storage", ["journal", "sqlite"])
def test_the_controller_costs_less_than_a_third_of_a_second_a_trial(
    make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch, storage: str
) -> None:
    """From the end of a trial's process to the start of the next one."""
    sweep = make_sweep(f'trials = 12\nstorage = "{storage}"', X)
    starts: list[float] = []
    ends: list[float] = []
    begin = slot_process.SlotProcess.__init__

    def timed(self: slot_process.SlotProcess, *arguments: Any) -> None:
        starts.append(time.monotonic())
        begin(self, *arguments)
        threading.Thread(target=wait, args=(self.process.pid,)).start()

    def wait(pid: int) -> None:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        ends.append(time.monotonic())

    monkeypatch.setattr(slot_process.SlotProcess, "__init__", timed)
    session.run_sweep(Experiment.load(sweep.path))
    gaps = [start - end for end, start in zip(ends, starts[1:], strict=False)]
    assert statistics.median(gaps) < 0.3, gaps


def test_trials_of_two_processes_and_a_branch_are_had_again_from_best_toml(make_sweep: MakeSweep) -> None:
    space = """
[sweep.space."optimizer.use".choice.adamw]
"optimizer.lr" = { float = [1e-3, 1e-1], log = true }
[sweep.space."optimizer.use".choice.sgd]
"optimizer.lr" = { float = [1e-3, 1e-1], log = true }
"""
    sweep = make_sweep("trials = 3\nseeds = 2", space, metric="val/loss")
    sweep.run("--nproc=2")
    said = sweep.run(code=2)
    assert "--nproc: was 2 when the sweep began and is 1 now" in said
    told = sweep.status()
    best = next(trial for trial in told["trials"] if trial["index"] == told["best"])
    text = (sweep.folder / "best.toml").read_text()
    command = next(line.removeprefix("# nanogpt-kit ") for line in text.splitlines() if "# nanogpt-kit run" in line)
    assert command.endswith("best.toml --nproc 2")
    again = sweep.path.parent / "again"
    subprocess.run([sys.executable, "-m", "nanogpt_kit", *command.split(), f"--into={again}"], check=True)
    run = sweep.folder / f"trial-{best['number']:04d}-s1337"
    mine, theirs = (
        [one["val/loss"] for one in read_metrics(at / "metrics.jsonl") if "val/loss" in one] for at in (again, run)
    )
    assert mine == theirs
