"""Optimizers with other weights for evaluation: the one that docs/reference/kinds/optimizer.md shows."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nanogpt_kit.checkpoint import store
from nanogpt_kit.components.optimizer.adamw import AdamW
from nanogpt_kit.core.evaluation_weights import evaluation_weights
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Optimizer, Schedule
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.nn.combined_optimizer import CombinedOptimizer
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.testing.optimizer import OptimizerConformance
from nanogpt_kit.train import session
from nanogpt_kit.train.run import Run

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "kinds" / "optimizer.md"
(SOURCE,) = (
    block
    for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    if "def eval(" in block
)
NAMES: dict[str, Any] = {"__name__": __name__}
exec(compile(SOURCE, str(PAGE), "exec"), NAMES)
AveragedAdamW: type[Optimizer] = NAMES["AveragedAdamW"]
PLAIN = ("schedule=constant", "train.steps=9", "evaluate.every_steps=3", "checkpoint.every_steps=4", "sample.seed=5")
STEPS = 9


class TestAveragedAdamW(OptimizerConformance):
    component = AveragedAdamW(lr=3e-3)


class TestPartsOfACombinedOptimizer(OptimizerConformance):
    """Of which only one has other weights for evaluation."""

    component = AveragedAdamW(lr=3e-3)

    def build_optimizer(self, parameters: dict[str, nn.Parameter], total_steps: int = 60) -> torch.optim.Optimizer:
        groups = self.groups(parameters, total_steps)
        return CombinedOptimizer([AdamW(lr=3e-3).build(groups[:2]), self.component.build(groups[2:])])


@pytest.fixture
def train(tiny: Path, tmp_path: Path) -> Callable[..., RunFolder]:
    """`train(*overrides, resume=..., swaps=...)`: a run with the optimizer of the page, perhaps without its methods."""

    def call(*overrides: str, resume: str | None = None, swaps: bool = True) -> RunFolder:
        file = tmp_path / str(swaps) / "averaged_adamw.py"
        file.parent.mkdir(exist_ok=True)
        source = SOURCE if swaps else SOURCE.replace("def eval(", "def eval_(").replace("def train(", "def train_(")
        file.write_text(source, encoding="utf-8")
        local = (f"components=['{file.as_posix()}']", "optimizer={use='averaged_adamw', lr=3e-3}")
        return session.run(Experiment.load(tiny, [*PLAIN, *local, *overrides], trust_code=True), resume=resume)

    return call


def metric(run: RunFolder, name: str) -> list[float]:
    return [line[name] for line in read_metrics(run.metrics) if name in line]


def state_of(run: RunFolder) -> dict[str, Any]:
    """By parameter, what the last checkpoint has of the optimizer."""
    state = store.load_training(run.checkpoint(STEPS))["optimizer"]
    names = [name for group in state["param_groups"] for name in group["names"]]
    indices = [index for group in state["param_groups"] for index in group["params"]]
    return {name: state["state"][index] for name, index in zip(names, indices, strict=True)}


def test_training_never_sees_the_weights_for_evaluation(train: Callable[..., RunFolder]) -> None:
    averaged, plain = train("callback=['ema']"), train("callback=['ema']", swaps=False)
    assert metric(averaged, "train/loss") == metric(plain, "train/loss")
    states = [store.load_training(run.checkpoint(STEPS))["callbacks"]["EMA"]["weights"] for run in (averaged, plain)]
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())
    last = load_run(plain.path, trust_code=True).model.state_dict()
    assert all(torch.equal(state["trained"], last[name]) for name, state in state_of(averaged).items())


def test_checkpoints_evaluations_and_samples_have_them(train: Callable[..., RunFolder]) -> None:
    averaged, plain = train(), train(swaps=False)
    saved = load_run(averaged.path, trust_code=True).model.state_dict()
    for name, state in state_of(averaged).items():
        assert torch.equal(saved[name], state["mean"])
        assert not torch.equal(saved[name], state["trained"])
    assert metric(averaged, "val/loss")[-1] != metric(plain, "val/loss")[-1]
    assert Run(averaged, trust_code=True).evaluate()["val/loss"] == pytest.approx(
        metric(averaged, "val/loss")[-1], abs=1e-6
    )
    assert averaged.samples.read_text(encoding="utf-8") != plain.samples.read_text(encoding="utf-8")


def test_a_resumed_run_continues_with_the_trained_ones(train: Callable[..., RunFolder]) -> None:
    whole = train()
    part = train("train.steps=5")  # after more than one step, of which the mean is no longer the last weights
    resumed = train(resume=str(part.path))
    assert metric(resumed, "train/loss") == metric(whole, "train/loss")
    assert metric(resumed, "val/loss")[-1] == metric(whole, "val/loss")[-1]
    weights = store.read_weights(resumed.checkpoint(STEPS))
    assert all(torch.equal(weights[name], value) for name, value in store.read_weights(whole.checkpoint(STEPS)).items())


def test_a_note_of_an_optimizer_is_one_of_the_experiment(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def note(self: Optimizer, schedule: Schedule, total_steps: float) -> str:
        return f"{type(schedule).__name__} over {total_steps} steps does not suit {type(self).__name__}"

    monkeypatch.setattr(Optimizer, "note", note)
    decay = "{use='linear', warmup_steps=0, target='optimizer.weight_decay'}"
    notes = Experiment.load(tiny, [f"schedule=[{decay}, {{use='constant'}}]"]).notes
    assert notes[1:] == ("schedule.1: Constant over 20 steps does not suit AdamW",)


@pytest.mark.parametrize(
    "other", [{"train": lambda loader: 1 / 0}, {"eval": lambda: 1 / 0}, {"train": True, "eval": 3}]
)
def test_methods_of_another_meaning_are_not_called(other: dict[str, Any]) -> None:
    optimizer = AdamW().build([{"params": [nn.Parameter(torch.ones(2, 3))], "role": "matrix", "lr_multiplier": 1.0}])
    vars(optimizer).update(other)
    with evaluation_weights(optimizer):
        pass
