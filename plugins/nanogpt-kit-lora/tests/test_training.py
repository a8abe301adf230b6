"""Training of adapters: what is trained, what it starts from, and what becomes of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nanogpt_kit import Experiment, Run, load_run
from nanogpt_kit.testing.training import resume_briefly, train_briefly

IDS = torch.tensor([[72, 101, 7, 32, 0, 99, 99, 1, 2, 3, 250]])


def weights_of(run: Run, step: int | None = None) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in run.generator(step, device="cpu").model.state_dict().items()}


@torch.no_grad()
def logits_of(run: Run) -> Tensor:
    logits: Tensor = run.generator(device="cpu").model(IDS)
    return logits


def final_loss(run: Run) -> float:
    return float(run.metrics()["val/loss"].dropna().iloc[-1])


def test_only_the_adapters_change(base: Run, adapted: Run) -> None:
    before, after = weights_of(base), weights_of(adapted)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(".lora" in name for name in after.keys() - before.keys())
    moved = [name for name, value in after.items() if name.endswith(".b") and value.any()]
    assert len(moved) == 2 * (3 + 1 + 2)  # in each block queries, keys, values, c_proj, and two of the MLP


def test_training_lowers_the_loss_of_the_base(base: Run, adapted: Run) -> None:
    assert final_loss(adapted) < final_loss(base)


def test_it_starts_as_the_base(base: Run, adapted_file: Path) -> None:
    """B is zero, so a step of almost no size leaves the logits as they are."""
    run = Experiment.load(adapted_file, ["name=fresh", "optimizer.lr=1e-30", "train.steps=1"]).run()
    torch.testing.assert_close(logits_of(run), logits_of(base), rtol=0, atol=1e-6)


def test_other_parameters_are_trained_where_they_are_named(base: Run, adapted_file: Path) -> None:
    run = Experiment.load(adapted_file, ["name=norms", "model.also_train=ln_f", "model.match=c_attn"]).run()
    before, after = weights_of(base), weights_of(run)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"ln_f.weight", "ln_f.bias"}


def test_the_optimizer_has_state_for_the_adapters_alone(adapted: Run) -> None:
    (file,) = (adapted.path / "checkpoints" / "step-00000005").glob("training*")
    state = torch.load(file, weights_only=True)["optimizer"]["state"]
    trained = sum(value.numel() for name, value in weights_of(adapted).items() if ".lora" in name)
    assert sum(one["exp_avg"].numel() for one in state.values()) == trained


def test_a_resumed_run_is_the_same_to_the_bit(folder: Path, adapted_file: Path) -> None:
    run = resume_briefly(folder, "name=resumed", "model.dropout=0.5", experiment=adapted_file)
    plain = train_briefly(folder, "name=plain", experiment=adapted_file)
    assert not torch.equal(logits_of(run), logits_of(plain))  # dropout changes what is learnt


def test_all_of_a_merged_model_can_be_trained_further(adapted: Run, base: Run, folder: Path) -> None:
    """A model without adapters that starts from a run with adapters has them in its weights."""
    overrides = ["name=further", "model.init_from=adapted", "optimizer.lr=1e-30", "train.steps=1"]
    run = Experiment.load(folder / "tiny.toml", overrides).run()
    torch.testing.assert_close(logits_of(run), logits_of(adapted), rtol=0, atol=1e-5)
    assert (logits_of(run) - logits_of(base)).abs().max() > 1e-3


def test_adapters_are_trained_further(adapted: Run, adapted_file: Path) -> None:
    overrides = ["name=more", "model.init_from=adapted", "optimizer.lr=1e-30", "train.steps=1"]
    run = Experiment.load(adapted_file, overrides).run()
    torch.testing.assert_close(logits_of(run), logits_of(adapted), rtol=0, atol=1e-6)


@pytest.mark.parametrize("format", ["huggingface", "safetensors"])
def test_an_export_is_merged(format: str, adapted: Run, folder: Path) -> None:
    command = [sys.executable, "-m", "nanogpt_kit", "export", "adapted", str(folder / format), "--format", format]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    exported = load_run(folder / format, overrides=["tokenizer=byte"] if format != "safetensors" else [])
    assert not any(".lora" in name for name in exported.model.state_dict())
    greedy = {"max_new_tokens": 12, "samplers": ["greedy"]}
    assert exported.generate("3 times", **greedy) == adapted.sample("3 times", **greedy, device="cpu")
    with torch.no_grad():
        torch.testing.assert_close(exported.model(IDS), logits_of(adapted), rtol=0, atol=1e-5)


def test_two_processes_train_the_same_adapters(folder: Path, adapted: Run, adapted_file: Path) -> None:
    run = train_briefly(folder, "name=two", experiment=adapted_file, ranks=2)
    torch.testing.assert_close(logits_of(run), logits_of(adapted), rtol=0, atol=1e-5)
