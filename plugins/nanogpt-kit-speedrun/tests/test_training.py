"""Runs: they learn, resume to the bit, keep documents apart, are the same on two ranks, and leave in a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from nanogpt_kit import load_run
from nanogpt_kit.testing.training import resume_briefly, train_briefly

SIZES = "n_layer=3, n_head=2, n_embd=16, block_size=16, short_window=5"
MODEL = (f"model={{use='speedrun', {SIZES}}}",)
SPEEDRUN = (*MODEL, "init=zero_residual", "optimizer={use='muon', lr=0.02, others={use='adamw', lr=0.02}}")
MORE = ("model.n_kv_head=1", "model.document_mask=true", "train.watch=['attention', 'activations']")


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOGPT_KIT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("NANOGPT_KIT_DATA", str(tmp_path / "data"))


def losses(trained: Any) -> list[float]:
    return [*trained.metrics()["train/loss"].dropna()]


def command(*words: object) -> str:
    """What the command line prints."""
    arguments = [sys.executable, "-m", "nanogpt_kit", *map(str, words)]
    done = subprocess.run(arguments, capture_output=True, text=True, env={**os.environ}, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("more", [(), MORE], ids=["as it is", "documents apart"])
def test_a_run_learns_resumes_to_the_bit_and_writes_beyond_its_context(more: tuple[str, ...], tmp_path: Path) -> None:
    whole = resume_briefly(tmp_path, *SPEEDRUN, *more)
    assert losses(whole)[-1] < losses(whole)[0] - 0.3
    (text,) = whole.sample("3 times", max_new_tokens=40)  # the context is 16
    assert len(text) > len("3 times")


def test_all_lambdas_are_trained_without_weight_decay(tmp_path: Path) -> None:
    optimizer = "optimizer={use='muon', others={use='adamw', lr=1e-3, weight_decay=500.0}}"
    trained = load_run(train_briefly(tmp_path, *MODEL, optimizer)).model
    for name, first in {"residual_lambdas": 1.0, "x0_lambdas": 0.0, "backout_lambda": 0.2}.items():
        moved = (trained.get_parameter(name).float() - first).abs()
        assert (moved > 1e-5).all(), name
        assert (moved < 6e-3).all(), name  # five steps of Adam; half of it would remain with the decay


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_train_as_one(parallel: str, tmp_path: Path) -> None:
    more = ("model.document_mask=true", "train.precision=fp32", "optimizer=adamw")  # Muon rounds to bf16
    one = train_briefly(tmp_path, *MODEL, *more, "name=one")
    experiment = tmp_path / "tiny.toml"
    command("run", experiment, *MODEL, *more, "name=two", f"parallel={parallel}", "--nproc", 2)
    two = load_run("two")
    for name, value in load_run(one).model.state_dict().items():
        torch.testing.assert_close(two.model.state_dict()[name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.slow
def test_it_is_counted_timed_and_exported(tmp_path: Path) -> None:
    trained = train_briefly(tmp_path, *SPEEDRUN)
    experiment = tmp_path / "tiny.toml"
    size = json.loads(command("check", experiment, *SPEEDRUN, "--json"))["model"]
    parameters = size["parameters"]
    assert size["flops_per_token"] == 6 * (parameters["matrix"] + parameters["head"]) + 12 * 3 * 16 * 16
    assert parameters["vector"] == 3 + 3 + 1 + 1
    assert "tokens/s" in command("bench", experiment, *SPEEDRUN, "--rounds", 1, "--seconds", 0.2)
    command("export", trained.path, tmp_path / "exported", "--format", "safetensors")
    exported, ours = load_run(tmp_path / "exported").model, load_run(trained).model
    ids = torch.randint(0, 256, (2, 11), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert exported(ids).equal(ours(ids))


@pytest.mark.slow
def test_mup_changes_features_alike_at_all_widths(tmp_path: Path) -> None:
    train_briefly(tmp_path)
    init = ("init={use='mup', base_width=64}", "optimizer=adamw", "optimizer.lr=1e-2", "model.window_pattern=L")
    options = ("--widths", "64,128,256", "--output", tmp_path / "page.html")
    assert "training changes features alike" in command("mup-check", tmp_path / "tiny.toml", *MODEL, *init, *options)
