"""The experiment of the package takes two steps with a tiny model, and is a Llama."""

from __future__ import annotations

from pathlib import Path

from nanogpt_kit_llama.llama import EXPRESSIBLE

from nanogpt_kit import Experiment
from nanogpt_kit.testing.training import train_briefly

FILE = Path(__file__).parents[1] / "experiments" / "llama_tiny.toml"


def test_the_experiment_takes_two_steps(tmp_path: Path) -> None:
    train_briefly(tmp_path, "tokenizer.vocab_size=300", "train.steps=2", experiment=FILE)


def test_the_experiment_can_be_exported() -> None:
    model = Experiment.load(FILE).resolved()["model"]
    for slot in ("position", "norm", "mlp"):
        allowed = EXPRESSIBLE[f"{slot}.use"]
        assert allowed is not None
        assert model[slot]["use"] in allowed
