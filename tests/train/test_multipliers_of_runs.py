"""The factors of an init are part of the network wherever the weights of its run are used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nanogpt_kit.api import KitError, ModelContext, Multipliers
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.train import session
from nanogpt_kit.train.trainer import Trainer

OPTIONS = (
    "callback=['console']",
    "sample.num_samples=0",
    "schedule=constant",
    "train.steps=3",
    "model.weight_tying=false",
)
MUP = ("init.use=mup", "init.base_width=6", "init.std=0.1")
FACTORS = Multipliers(queries=0.5, logits=0.25)  # of heads and of a width that are four times those of the base model
IDS = torch.arange(12)[None]


def experiment_of(tiny: Path, *more: str) -> Experiment:
    return Experiment.load(tiny, [*OPTIONS, *more])


def losses(run: RunFolder) -> list[float]:
    return [row["val/loss"] for row in read_metrics(run.metrics) if "val/loss" in row]


@pytest.fixture
def trained(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[RunFolder, torch.Tensor]:
    """A run with mup, and the logits of its model at its end."""
    logits: list[torch.Tensor] = []
    train = Trainer.train

    def keep_logits(self: Trainer) -> None:
        train(self)
        with torch.no_grad():
            logits.append(self.model.eval()(IDS))

    monkeypatch.setattr(Trainer, "train", keep_logits)
    run = session.run(experiment_of(tiny, *MUP))
    monkeypatch.setattr(Trainer, "train", train)
    return run, logits[0]


@torch.no_grad()
def test_a_loaded_run_computes_what_the_trained_model_does(trained: tuple[RunFolder, torch.Tensor]) -> None:
    run, logits = trained
    loaded = load_run(run.path)
    assert torch.equal(loaded.model(IDS), logits)
    experiment = Experiment.load(run.experiment)
    assert experiment.model_context(257) == ModelContext(vocab_size=257, multipliers=FACTORS)
    plain: Any = experiment.model.build(ModelContext(vocab_size=257)).eval()
    plain.load_state_dict(loaded.model.state_dict())
    assert (plain(IDS) - logits).abs().max() > 0.1, "without its factors it is another network"


def test_cached_generation_applies_them(trained: tuple[RunFolder, torch.Tensor]) -> None:
    """Greedy tokens, one at a time with a cache, are those of the whole text without one."""
    loaded = load_run(trained[0].path, overrides=["sampler=['greedy']", "sample.max_new_tokens=6"])
    text = "the"
    ids = list(text.encode())
    for _ in range(6):
        with torch.no_grad():
            ids.append(int(loaded.model(torch.tensor([ids]))[0, -1].argmax()))
    assert loaded.encoder.decode(ids[3:]) in loaded.generate(text)[0]


def test_weights_to_start_from_keep_theirs(tiny: Path, trained: tuple[RunFolder, torch.Tensor]) -> None:
    run, _ = trained
    start = f"model.init_from={run.path}"
    continued = session.run(experiment_of(tiny, *MUP, start, "optimizer.lr=1e-12"))
    assert losses(continued)[0] == pytest.approx(losses(run)[-1], abs=1e-6)


@pytest.mark.parametrize(
    ("init", "now"), [((), "all 1"), (("init.use=mup", "init.base_width=12"), "queries 0.7071, logits 0.5")]
)
def test_weights_of_another_network_are_refused_with_the_remedy(
    tiny: Path, trained: tuple[RunFolder, torch.Tensor], init: tuple[str, ...], now: str
) -> None:
    run, _ = trained
    with pytest.raises(KitError) as caught:
        session.run(experiment_of(tiny, *init, f"model.init_from={run.path}"))
    (fault,) = caught.value.faults
    assert (fault.key, fault.location) == ("init", "command line" if init else "default")
    assert all(text in fault.message for text in (str(run.path), "queries 0.5, logits 0.25", now))
    assert "set init.use=mup init.base_width=6 init.std=0.1" in fault.message


def test_check_explains_them(tiny: Path, command: Callable[..., Any]) -> None:
    printed = command("check", tiny, "--explain", *OPTIONS, *MUP).out
    assert "multipliers in the forward pass: queries 0.5, logits 0.25" in printed
    assert "peak learning rates: embedding 0.003, vector 0.003, matrix 0.00075, head 0.003" in printed
    plain = command("check", tiny, "--explain", *OPTIONS).out
    assert "multipliers" not in plain
    assert "peak learning rates" not in plain
