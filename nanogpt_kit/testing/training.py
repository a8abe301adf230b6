"""Trains a tiny model for a few steps, with any component, from a TOML file as users write it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.train.run import Run, run

TINY = """\
name = "tiny"
tokenizer = "byte"
callback = []

[dataset]
use = "text"
source = "{text}"

[model]
use = "gpt"
n_layer = 2
n_head = 2
n_embd = 16
block_size = 16

[optimizer]
use = "adamw"
lr = 1e-2

[schedule]
use = "constant"

[train]
steps = 5
batch_tokens = 64
log_every_steps = 1

[evaluate]
every_steps = 5

[checkpoint]
every_steps = 3

[sample]
max_new_tokens = 8
"""
TEXT = "".join(f"{n} times {n + 7} is {n * (n + 7)}.\n" for n in range(300))


def train_briefly(folder: Path, *overrides: str, experiment: Path | None = None, files: Sequence[Path] = ()) -> Run:
    """Trains for five steps in `folder`, and returns the finished run.

    `overrides` are written as on the command line: "optimizer.use=lion". `experiment` is an experiment file that takes
    the place of the tiny one, `files` are local component files. Nothing is written outside `folder`. Asserts that all
    losses are finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = folder / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    if experiment is None:
        experiment = folder / "tiny.toml"
        experiment.write_text(TINY.format(text=text.as_posix()), encoding="utf-8")
    if files:
        overrides = (f"components={[str(path.resolve()) for path in files]}", *overrides)
    with pytest.MonkeyPatch.context() as patch:
        for variable, name in {"RUNS": "runs", "DATA": "data"}.items():
            patch.setenv(f"NANOGPT_KIT_{variable}", str(folder / name))
        finished = run(Experiment.load(experiment, list(overrides), trust_code=True))
    losses = finished.metrics()["train/loss"].dropna()
    assert len(losses) > 0
    assert all(map(math.isfinite, losses)), f"the training losses are not finite: {list(losses)}"
    return finished
