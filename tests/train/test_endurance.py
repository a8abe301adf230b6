"""Runs that are stopped and killed at random moments, again and again, end as those that were left alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nanogpt_kit.checkpoint import store
from nanogpt_kit.runs.metrics import read_metrics

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs SIGHUP"),
    pytest.mark.usefixtures("real_processes", "with_dropout"),  # they are found by their command lines
]

KINDS = {  # of similar length, by the clock
    "one process": ["train.steps=9000"],
    "ddp": ["train.steps=4000", "--nproc", "2", "parallel=ddp"],
    "fsdp": ["train.steps=1500", "--nproc", "2", "parallel=fsdp"],
}
OPTIONS = [
    *("train.log_every_steps=50", "checkpoint.every_steps=100", "evaluate.every_steps=500"),
    *("train.micro_batch_size=2", "train.compile=off", "sample.num_samples=1", "callback=['tensorboard', 'ema']"),
]
KILLS = 15  # of each kind
TIMING = ("seconds", "perf/tokens_per_second", "perf/mfu", "memory/peak_bytes", "memory/peak_gb")


def started(tiny: Path, folder: Path, kind: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "nanogpt_kit", "run", str(tiny), *OPTIONS, *KINDS[kind], f"--into={folder}"]
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True)


def processes_of(folder: Path) -> list[int]:
    """The command, and its ranks."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.fsencode(f"--into={folder}") in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return found


def wait_for_the_end(folder: Path) -> None:
    deadline = time.monotonic() + 20
    while found := processes_of(folder):
        assert time.monotonic() < deadline, f"stray processes: {found}"
        time.sleep(0.05)


def result(folder: Path) -> dict[str, Any]:
    """All that two equal runs have in common, to the bit."""
    checkpoint = store.newest_whole_checkpoint(folder / "checkpoints")
    assert checkpoint is not None
    training = store.load_training(checkpoint)
    del training["seconds"]
    lines = [
        {key: value for key, value in line.items() if key not in TIMING}
        for line in read_metrics(folder / "metrics.jsonl")
    ]
    samples = (folder / "samples.txt").read_text(encoding="utf-8")
    return {"weights": store.read_weights(checkpoint), "training": training, "metrics": lines, "samples": samples}


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    shown = {}
    for tag in events.Tags()["scalars"]:
        shown[tag] = [(event.step, event.value) for event in events.Scalars(tag)]
        steps = [step for step, _ in shown[tag]]
        assert steps == sorted(set(steps)), f"{tag} has a step twice"
    return {tag: values for tag, values in shown.items() if tag not in TIMING}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_killed_fifteen_times_ends_like_an_uninterrupted_run(
    tiny: Path, tmp_path: Path, assert_same: Callable[[Any, Any], None], kind: str
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = started(tiny, whole, kind)
    words = process.communicate()[1]
    assert process.returncode == 0, words
    dice, kills = random.Random(kind), 0
    while kills < KILLS:
        process = started(tiny, killed, kind)
        time.sleep(dice.uniform(2.0, 9.0))
        if process.poll() is not None:
            words = process.communicate()[1]
            assert process.returncode == 0, words
            break
        name = dice.choice(["SIGKILL", "SIGTERM", "SIGHUP"])
        found = processes_of(killed)
        victim = process.pid if name != "SIGKILL" or not found else dice.choice(found)
        os.kill(victim, getattr(signal, name))
        words = process.communicate(timeout=120)[1]
        assert "Traceback" not in words, words
        assert process.returncode in ({-9, 1} if name == "SIGKILL" else {130, -15, -1}), (name, words)
        wait_for_the_end(killed)  # ranks end a moment after the command that was killed; until then the run is busy
        kills += 1
    assert kills > KILLS / 3, "the run was so quick that it was hardly killed"
    process = started(tiny, killed, kind)
    words = process.communicate(timeout=300)[1]
    assert process.returncode == 0, words
    wait_for_the_end(killed)
    assert_same(result(killed), result(whole))
    assert curves(killed) == curves(whole)
