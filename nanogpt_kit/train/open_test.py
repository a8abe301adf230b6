"""Opens the test split of a run: once for a checkpoint, and recorded in its folder."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace

from nanogpt_kit.checkpoint import store
from nanogpt_kit.checkpoint.manifest import Manifest
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.evaluator_metrics import evaluators_of_test
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.data.yardsticks import compute_yardsticks
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.opened_test import OpenedTest, add_opened_test, read_opened_tests
from nanogpt_kit.runs.recorded_experiment import load_recorded
from nanogpt_kit.train.evaluation import evaluate_trained_model, evaluation_data
from nanogpt_kit.train.precision import choose_device


def measure_test_split(folder: RunFolder, trust_code: bool = False) -> OpenedTest:
    """Evaluates the newest checkpoint of a run on the test split, with the weights that its own evaluations used.

    Measured are the run's evaluators that have an option `split`, on "test" in place of "val". What was opened before
    is returned from test.json. Raises KitError where the dataset has no test split, or no evaluator has that option.
    """
    checkpoint = store.newest_whole_checkpoint(folder.checkpoints)
    if checkpoint is None:
        raise KitError(f"{folder} has no checkpoint yet")
    manifest = Manifest.read(checkpoint)
    for opened in read_opened_tests(folder):
        if (opened.step, opened.weights) == (manifest.step, manifest.weights_hash):
            return opened
    experiment = load_recorded(folder, (), trust_code, needs=("dataset", "evaluator", "callback"))
    used = evaluated_callback(experiment, store.load_training(checkpoint).get("callbacks", {}))
    generator = load_run(folder, choose_device("auto"), trust_code, weights=used or None, step=manifest.step)
    tested = experiment.with_(evaluator=evaluators_of_test(experiment))
    generator = replace(generator, experiment=tested)
    metrics = evaluate_trained_model(generator, show=lambda _: None, may_open_test=True)
    opened = OpenedTest(
        time=time.time(),
        step=manifest.step,
        weights=manifest.weights_hash,
        used=used,
        metrics={name: value if math.isfinite(value) else None for name, value in metrics.items()},
        yardsticks=compute_yardsticks(tested, evaluation_data(generator).manifest),
    )
    add_opened_test(folder, opened)
    return opened


def evaluated_callback(experiment: Experiment, states: Mapping[str, object]) -> str:
    """The callback whose weights the run's evaluations used: one with an option `evaluate` that is on, and with
    weights in the checkpoint. "" where they used the trained ones."""
    for callback in experiment.callback:
        name = type(callback).__name__
        state = states.get(name)
        if getattr(callback, "evaluate", False) is True and isinstance(state, Mapping) and "weights" in state:
            return name
    return ""
