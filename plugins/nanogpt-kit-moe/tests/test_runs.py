"""Runs with a mixture of experts: metrics, balance, weights, resuming, decoding, several processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import nanogpt_kit
from nanogpt_kit.api import KVCache
from nanogpt_kit.testing.training import resume_briefly, train_briefly

EXPERIMENTS = sorted((Path(__file__).parents[1] / "experiments").glob("*.toml"))
MOE = "model.mlp={use='moe', experts=4, width=1.0}"


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOGPT_KIT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("NANOGPT_KIT_DATA", str(tmp_path / "data"))


def logged(run: Any, metric: str) -> list[float]:
    return list(run.metrics()[metric].dropna())


def test_the_loads_are_logged_and_no_token_is_dropped(tmp_path: Path) -> None:
    run = train_briefly(tmp_path, MOE)
    for layer in range(2):
        loads = [logged(run, f"aux/load_{layer}_{expert}") for expert in range(4)]
        assert [sum(step) for step in zip(*loads, strict=True)] == pytest.approx([1.0] * 5)
    assert len(logged(run, "aux/load_balance")) == len(logged(run, "aux/router_z")) == 5
    bare = train_briefly(tmp_path, "model.mlp={use='moe', balance=0.0, z_loss=0.0, log_loads=false}")
    assert not [name for name in bare.metrics().columns if name.startswith("aux/")]


def busiest(run: Any) -> float:
    """The largest load of an expert in the last ten steps, averaged over them and over the layers."""
    layers = [
        torch.tensor([logged(run, f"aux/load_{layer}_{expert}")[-10:] for expert in range(4)]).amax(dim=0)
        for layer in range(2)
    ]
    return torch.cat(layers).mean().item()


def test_the_balance_loss_keeps_the_busiest_expert_near_its_part(tmp_path: Path) -> None:
    loads = {}
    for weight in (0.0, 0.1):
        mlp = f"model.mlp={{use='moe', experts=4, width=1.0, balance={weight}}}"
        loads[weight] = busiest(train_briefly(tmp_path, mlp, "train.steps=60", "train.batch_tokens=256"))
    assert loads[0.1] + 0.03 < loads[0.0], loads  # 0.25 where all have the same


def test_a_stopped_run_is_resumed_to_the_bit(tmp_path: Path) -> None:
    resume_briefly(tmp_path, MOE, "optimizer=muon", "model.dropout=0.1")


def test_decoding_with_a_cache_equals_one_pass(tmp_path: Path) -> None:
    model = nanogpt_kit.load_run(train_briefly(tmp_path, MOE).path).model
    ids, cache = torch.randint(0, 256, (2, 11), generator=torch.Generator().manual_seed(1)), KVCache(11)
    with torch.no_grad():
        fed = torch.cat([model(chunk, cache=cache) for chunk in ids.split([3, 1, 5, 2], dim=1)], dim=1)
        torch.testing.assert_close(fed, model(ids), rtol=0, atol=1e-5)


def test_inits_draw_the_experts_as_they_draw_a_dense_mlp(tmp_path: Path) -> None:
    wide = ("train.steps=1", "optimizer.lr=1e-30", "model.n_embd=64")
    model = nanogpt_kit.load_run(train_briefly(tmp_path, MOE, *wide).path).model
    weights = {name: weight for name, weight in model.named_parameters() if "mlp" in name and name.endswith("weight")}
    for name, weight in weights.items():
        std = 0.02 / 2 if "c_proj" in name else 0.02  # two layers, so four writers into the residual stream
        assert weight.std().item() == pytest.approx(std, rel=0.1), name
    assert any("router" in name for name in weights)
    train_briefly(tmp_path, MOE, *wide, "init={use='mup', base_width=32}")


def test_bf16_with_activation_checkpointing_is_near_fp32(tmp_path: Path) -> None:
    losses = [
        logged(
            train_briefly(tmp_path, MOE, f"train.precision={one}", "train.activation_checkpointing=true"), "train/loss"
        )
        for one in ("fp32", "bf16")
    ]
    assert losses[1] == pytest.approx(losses[0], abs=0.02)


@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_two_ranks_train_as_one_does_with_micro_batches_as_large_as_theirs(parallel: str, tmp_path: Path) -> None:
    """The balance loss depends on who shares a micro-batch. Of three windows, the second rank has one."""
    balanced = "model.mlp={use='moe', experts=4, width=1.0, balance=1.0, z_loss=0.1}"
    overrides = (balanced, "train.batch_tokens=48")
    one = train_briefly(tmp_path, *overrides, "train.micro_batch_size=2")
    two = train_briefly(tmp_path, *overrides, f"parallel={parallel}", ranks=2)
    for metric in ("train/loss", "aux/load_balance", "aux/router_z", "aux/load_1_2", "val/loss"):
        assert logged(two, metric) == pytest.approx(logged(one, metric), abs=1e-5), metric


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_each_experiment_trains(file: Path, tmp_path: Path) -> None:
    run = train_briefly(tmp_path, "schedule.warmup_steps=0", "tokenizer=byte", experiment=file)
    assert len(logged(run, "aux/load_balance")) == 5
