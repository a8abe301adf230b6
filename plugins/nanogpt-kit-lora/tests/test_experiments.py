"""The experiments of the package take two steps with tiny models."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanogpt_kit.testing.training import train_briefly

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
BASE = ["model.n_layer=3", "model.n_head=4", "model.n_embd=128", "model.block_size=64", "model.bias=false"]


@pytest.mark.parametrize("name", ["lora_shakespeare", "full_shakespeare"])
def test_an_experiment_takes_two_steps(name: str, tmp_path: Path) -> None:
    train_briefly(tmp_path, "name=quickstart", *BASE, "train.steps=1")
    sizes = BASE[:4] if name.startswith("full") else []
    train_briefly(tmp_path, *sizes, "train.steps=2", experiment=EXPERIMENTS / f"{name}.toml")
