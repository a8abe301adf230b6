"""The loss seam: a run trains with another objective, and measures the same loss as before."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.testing.loss import LossConformance
from nanogpt_kit.train import session
from tests.seams.components.two_token import TwoToken

QUICK = ["callback=[]", "sample.num_samples=0", "train.log_every_steps=1", "train.steps=8", "evaluate.every_steps=4"]
SOURCE = Path(__file__).parent / "components" / "two_token.py"
TWO_TOKEN = ["components=['two_token.py']", "model.loss=two_token"]
WEIGHTS = {"loss.c_fc.weight", "loss.c_fc.bias", "loss.c_proj.weight", "loss.c_proj.bias"}
B, T, C, V = 2, 5, 24, 37


class TestTwoToken(LossConformance):
    component = TwoToken()


class TestTwoTokenWithASmallCoefficient(LossConformance):
    component = TwoToken(coefficient=0.3)
    compiles = False


@pytest.fixture
def tiny_two(tiny: Path) -> Path:
    """The experiment file, with the component file beside it."""
    shutil.copy(SOURCE, tiny.with_name("two_token.py"))
    return tiny


def run(tiny: Path, *options: str) -> RunFolder:
    return session.run(Experiment.load(tiny, [*QUICK, *options], trust_code=True), trust_code=True)


def logged(folder: RunFolder, key: str) -> dict[int, float]:
    return {line["step"]: line[key] for line in read_metrics(folder.metrics) if key in line}


def test_targets_two_ahead_do_not_cross_what_is_ignored() -> None:
    module = TestTwoToken().build()
    x, weight = torch.randn(1, 6, C), torch.randn(V, C)
    for ignored, predicted in ({0: [1, 2, 3, 4], 5: [0, 1, 2, 3]}, {3: [0, 1, 4]}, {1: [2, 3, 4], 2: [3, 4]}):
        pass
