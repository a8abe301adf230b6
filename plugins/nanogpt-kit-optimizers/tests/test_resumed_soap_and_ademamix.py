"""Runs with SOAP and AdEMAMix, stopped and resumed."""

from __future__ import annotations

from pathlib import Path

import pytest

import nanogpt_kit
from nanogpt_kit.testing.training import train_briefly

OPTIONS = {
    "soap": ("optimizer.basis_every_steps=2", "optimizer.max_dim=64"),
    "ademamix": ("optimizer.betas=[0.8, 0.95, 0.99]",),
}
STEPS = 8


@pytest.mark.parametrize("use", OPTIONS)
def test_a_stopped_run_is_resumed_to_the_bit(use: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOGPT_KIT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("NANOGPT_KIT_DATA", str(tmp_path / "data"))
    overrides = [f"optimizer.use={use}", *OPTIONS[use], f"train.steps={STEPS}"]
    whole = train_briefly(tmp_path, *overrides)
    experiment = tmp_path / "tiny.toml"
    stopped = train_briefly(tmp_path, *overrides, "train.max_seconds=1e-9", experiment=experiment)
    steps = len(stopped.metrics()["train/loss"].dropna())
    assert steps < STEPS
    again = nanogpt_kit.Experiment.load(experiment, [*overrides, "train.max_seconds=1e9"])
    resumed = nanogpt_kit.run(again, resume=stopped.path)
    losses = [list(run.metrics()["train/loss"].dropna()) for run in (whole, resumed)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == STEPS
    assert losses[0][-1] < losses[0][0]
