"""The tiny trainings of `nanogpt_kit.testing` find what they claim to find, and leave nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nanogpt_kit.core.errors import RunFailed
from nanogpt_kit.core.shipped import shipped_experiments
from nanogpt_kit.testing.training import resume_briefly, train_briefly

FORGETFUL = '''"""SGD with momentum that is kept outside of the optimizer's state, so that a checkpoint lacks it."""

import torch

from nanogpt_kit.api import Optimizer


class Forgetful(Optimizer):
    lr: float = 1e-2

    def build(self, groups):
        return Steps(groups, {"lr": self.lr})


class Steps(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for name, parameter in zip(group["names"], group["params"]):
                mean = self.__dict__.setdefault("means", {}).setdefault(name, torch.zeros_like(parameter))
                mean.mul_(0.9).add_(parameter.grad)
                parameter.sub_(group["lr"] * mean)
'''


def losses(run: object) -> list[float]:
    table = run.metrics()  # type: ignore[attr-defined]
    return [float(value) for value in table["train/loss"].dropna()]


def test_a_training_has_five_steps_and_a_checkpoint_of_step_3(tmp_path: Path) -> None:
    run = train_briefly(tmp_path / "one", "model.norm=rmsnorm")
    assert run.status == "finished"
    assert run.folder.checkpoint_steps() == [3, 5]
    assert len(losses(run)) == 5
    assert run.experiment.resolved()["model"]["norm"]["use"] == "rmsnorm"


def test_it_writes_into_its_folder_only(tmp_path: Path) -> None:
    before = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    train_briefly(tmp_path / "one")
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    assert {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"} == before


def test_two_processes_have_the_losses_of_one(tmp_path: Path) -> None:
    one, two = (losses(train_briefly(tmp_path / str(ranks), ranks=ranks)) for ranks in (1, 2))
    assert two == pytest.approx(one, rel=1e-6)


def test_an_experiment_becomes_small_with_a_little_text(tmp_path: Path) -> None:
    run = train_briefly(tmp_path, experiment=shipped_experiments()["quickstart"])
    values = run.experiment.resolved()
    assert (values["train"]["steps"], values["model"]["n_embd"], values["dataset"]["use"]) == (5, 16, "text")
    assert values["optimizer"]["lr"] == 4e-3, "what is not a size is that of the experiment"


def test_a_resumed_training_ends_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    assert resume_briefly(tmp_path, "model.dropout=0.1").status == "finished"


def test_an_optimizer_that_forgets_its_momentum_is_found(tmp_path: Path) -> None:
    file = tmp_path / "forgetful.py"
    file.write_text(FORGETFUL, encoding="utf-8")
    with pytest.raises(
        AssertionError, match=r"resumed from step 3, train/loss of step 5 is another .* state of the opt"
    ):
        resume_briefly(tmp_path / "run", "optimizer.use=forgetful", files=[file])


def test_a_loss_that_is_not_finite_is_found(tmp_path: Path) -> None:
    file = tmp_path / "forgetful.py"
    file.write_text(FORGETFUL.replace("parameter.sub_(group", "parameter.add_(1e38 * group"), encoding="utf-8")
    with pytest.raises(RunFailed, match="the loss is nan at step 2"):
        train_briefly(tmp_path / "run", "optimizer.use=forgetful", files=[file])
