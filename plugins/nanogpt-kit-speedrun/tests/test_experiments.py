"""Every experiment of the package can be loaded, and trains for two shrunken steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanogpt_kit.testing.training import train_briefly

EXPERIMENTS = sorted((Path(__file__).parents[1] / "experiments").glob("*.toml"))
SMALL = (
    *("dataset={use='text', source='text.txt'}", "tokenizer=byte", "model.n_layer=2", "model.n_embd=16"),
    *("model.block_size=16", "model.short_window=5", "train.steps=2", "train.batch_tokens=64"),
    *("evaluate.every_steps=2", "sample.num_samples=0", "callback=[]", "train.log_every_steps=1"),
)


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=[path.stem for path in EXPERIMENTS])
def test_it_trains(experiment: Path, tmp_path: Path) -> None:
    source = f"dataset.source={tmp_path / 'text.txt'}"
    assert train_briefly(tmp_path, *SMALL, source, experiment=experiment).status == "finished"
