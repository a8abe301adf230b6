"""Every experiment of the package can be loaded, and trains for a few steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanogpt_kit.testing.training import train_briefly

EXPERIMENTS = sorted((Path(__file__).parents[1] / "experiments").glob("*.toml"))
SMALL = ("tokenizer=byte", "model.short_window=5", "schedule.warmup_steps=0")


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=[path.stem for path in EXPERIMENTS])
def test_it_trains(experiment: Path, tmp_path: Path) -> None:
    assert train_briefly(tmp_path, *SMALL, experiment=experiment).status == "finished"
