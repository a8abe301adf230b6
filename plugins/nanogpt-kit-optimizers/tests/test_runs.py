"""Runs with the optimizers: resumed, on two ranks, evaluated; and the experiments of the package."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.fsdp  # here, once for all ranks
from nanogpt_kit_optimizers import polar_express

import nanogpt_kit
from nanogpt_kit.testing.ranks import run_on_ranks
from nanogpt_kit.testing.training import resume_briefly, train_briefly

EXPERIMENTS = sorted((Path(__file__).parents[1] / "experiments").glob("*.toml"))
PLAIN = ("train.precision=fp32", "sample.num_samples=0")
GROUPED = ("model.n_head=4", "model.n_kv_head=2")  # so that queries have more rows than keys
OPTIONS = {
    "normuon": ("optimizer.momentum_warmup_steps=6", "optimizer.others={use='adamw', lr=2e-3}"),
    "schedule_free": ("optimizer.warmup_steps=3",),
    "soap": ("optimizer.basis_every_steps=2", "optimizer.max_dim=64"),
    "ademamix": ("optimizer.betas=[0.8, 0.95, 0.99]",),
}
THEIRS = '''\
"""Source: the package schedulefree."""

from nanogpt_kit.api import Field, Optimizer


class Theirs(Optimizer):
    lr: float = Field(1e-2, gt=0, description="learning rate")

    def build(self, groups):
        from schedulefree import AdamWScheduleFree

        return AdamWScheduleFree(groups, lr=self.lr)
'''


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("runs", "data"):
        monkeypatch.setenv(f"NANOGPT_KIT_{name.upper()}", str(tmp_path / name))


def losses(run: Any, name: str = "train/loss") -> list[float]:
    return list(run.metrics()[name].dropna())


def weights(run: Any) -> dict[str, torch.Tensor]:
    """As whoever loads the run has them."""
    return nanogpt_kit.load_run(run.path, trust_code=True).model.state_dict()


@pytest.mark.parametrize("use", OPTIONS)
def test_a_resumed_run_is_bit_for_bit_as_one_without_a_stop(use: str, tmp_path: Path) -> None:
    resume_briefly(tmp_path, f"optimizer.use={use}", *OPTIONS[use], *PLAIN)


def trained(folder: Path, size: int, *overrides: str) -> tuple[list[float], list[float], dict[str, torch.Tensor]]:
    """Losses of the steps, losses of evaluations and the weights of a run in so many processes."""

    def on_rank(rank: int) -> Any:
        run = train_briefly(folder, *overrides)
        return losses(run), losses(run, "val/loss"), None if rank else weights(run)

    return run_on_ranks(size, on_rank, joined=False)[0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks its ranks")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("use", ["normuon", "schedule_free"])
def test_two_ranks_train_as_one_does(use: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polar_express, "product_dtype", lambda device: torch.float32)  # bf16 magnifies any rounding
    overrides = [f"optimizer.use={use}", *OPTIONS[use], *PLAIN, *GROUPED]
    one = trained(tmp_path / "one", 1, *overrides)
    for parallel in ("ddp", "fsdp"):
        other = trained(tmp_path / parallel, 2, *overrides, f"parallel={parallel}")
        assert other[0] == pytest.approx(one[0], abs=2e-5), parallel
        assert other[1] == pytest.approx(one[1], abs=2e-5), parallel
        for name, weight in one[2].items():
            torch.testing.assert_close(other[2][name], weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("use", ["schedule_free", "muon"])
def test_evaluations_and_what_is_loaded_have_the_average(use: str, tmp_path: Path) -> None:
    """Of all parameters, or of those that muon leaves to it; the loss of the loaded model is the run's last one."""
    other = ("optimizer.others={use='schedule_free', lr=0.05}",) if use == "muon" else ("optimizer.lr=0.05",)
    run = train_briefly(tmp_path, f"optimizer.use={use}", *other, *PLAIN, "train.steps=12")
    loaded = nanogpt_kit.load_run(run.path, trust_code=True)
    assert run.evaluate()["val/loss"] == pytest.approx(losses(run, "val/loss")[-1], abs=1e-6)
    (newest,) = run.path.glob("checkpoints/step-00000012/training.pt")
    state = torch.load(newest, weights_only=True)["optimizer"]
    names = [name for group in state["param_groups"] for name in group["names"]]
    indices = [index for group in state["param_groups"] for index in group["params"]]
    trained_at = {name: state["state"][index].get("y") for name, index in zip(names, indices, strict=True)}
    averaged = {name for name, y in trained_at.items() if y is not None}
    matrices = {name for group in state["param_groups"] if group["role"] == "matrix" for name in group["names"]}
    assert averaged == set(names) - (matrices if use == "muon" else set())
    found = loaded.model.state_dict()
    for name in averaged:
        assert not torch.equal(found[name], trained_at[name])
        index = indices[names.index(name)]
        expected = trained_at[name].lerp(state["state"][index]["z"], 1 - 1 / 0.9)
        assert torch.equal(found[name], expected)


@pytest.mark.skipif(importlib.util.find_spec("schedulefree") is None, reason="the package schedulefree is not here")
def test_the_authors_own_class_trains_and_is_evaluated_in_the_same_way(tmp_path: Path) -> None:
    file = tmp_path / "theirs.py"
    file.write_text(THEIRS, encoding="utf-8")
    theirs = train_briefly(tmp_path / "theirs", "optimizer.use=theirs", *PLAIN, files=[file])
    ours = train_briefly(
        tmp_path / "ours", "optimizer.use=schedule_free", "optimizer={lr=1e-2, weight_decay=0}", *PLAIN
    )
    for name in ("train/loss", "val/loss"):
        assert losses(theirs, name) == pytest.approx(losses(ours, name), abs=1e-6)


def test_a_schedule_drives_the_learning_rate_of_the_others_alone(tmp_path: Path) -> None:
    schedules = "schedule=[{use='constant'}, {use='linear', warmup_steps=0, target='optimizer.others.lr'}]"
    run = train_briefly(tmp_path, "optimizer.use=normuon", schedules, "train.steps=6")
    multipliers = losses(run, "schedule/optimizer.others.lr")
    assert multipliers[-1] < multipliers[0]
    assert len(set(losses(run, "optim/lr"))) == 1


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_the_experiments_train(file: Path, tmp_path: Path) -> None:
    assert len(losses(train_briefly(tmp_path, experiment=file))) == 5
