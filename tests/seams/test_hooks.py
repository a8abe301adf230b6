"""Callbacks that take part in a step: noise on gradients, other input tokens, targets that do not count."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nanogpt_kit.checkpoint import store
from nanogpt_kit.core.errors import NotFinite, RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.nn.initial_weights import build_initialized
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.train import session

COMPONENTS = Path(__file__).parent / "components"
FILES = [str(COMPONENTS / f"{name}.py") for name in ("gradient_noise", "data_noising")]
SGD = ("optimizer={use='sgd', lr=0.1, momentum=0.0, weight_decay=0.0}", "schedule=constant", "train.grad_clip=0.0")
QUIET = ("sample.num_samples=0", "model.dropout=0.0", "evaluator=['loss']", "train.compile=off")
NOISE = "callback=[{use='gradient_noise', eta=0.5, gamma=0.6, seed=11}]"


# Callbacks of these tests: they record what a step was given, and end a run in the middle.
RECORDER = """\
import torch
from nanogpt_kit.api import Callback, hookimpl

class Recorder(Callback):
    def build(self, run):
        return Tape()

class Tape:
    @hookimpl
    def batch_ready(self, run, step, batch):
        torch.save([batch.ids.clone(), batch.targets.clone()], run.path / f"batch-{step}-{run.rank}.pt")

    @hookimpl
    def gradients_ready(self, run, step):
        torch.save([p.grad.clone() for p in run.model.parameters()], run.path / f"gradients-{step}.pt")
"""
CRASH = """\
from nanogpt_kit.api import Callback, hookimpl

class Crash(Callback):
    at: int = 7

    def build(self, run):
        return Wire(self.at)

class Wire:
    def __init__(self, at):
        self.at = at

    @hookimpl
    def step_finished(self, step):
        if step == self.at:
            raise OSError("unplugged")
"""
CHANGE = """\
import torch
from nanogpt_kit.api import Callback, hookimpl

class Change(Callback):
    target_from: int = 16
    token: int = -5
    gradient: float = -1.0
    turns: bool = False

    def build(self, run):
        return Hand(self)

class Hand:
    def __init__(self, options):
        self.options = options

    @hookimpl
    def batch_ready(self, batch):
        batch.targets[:, self.options.target_from:] = -1
        if self.options.token != -5:
            batch.ids[0, 3] = self.options.token
        if self.options.turns:
            batch.ids.t_()

    @hookimpl
    def gradients_ready(self, run):
        if self.options.gradient >= 0:
            for parameter in run.model.parameters():
                parameter.grad.fill_(self.options.gradient)
"""


def experiment_of(tiny: Path, *overrides: str) -> Experiment:
    files = list(FILES)
    for name, text in {"recorder": RECORDER, "crash": CRASH, "change": CHANGE}.items():
        tiny.with_name(f"{name}.py").write_text(text)
        files.append(f"{name}.py")
    return Experiment.load(tiny, [f"components={files}", *QUIET, *overrides], trust_code=True)


def newest(folder: RunFolder) -> Path:
    path = store.newest_whole_checkpoint(folder.checkpoints)
    assert path is not None
    return path


def losses(folder: RunFolder) -> list[float]:
    return [line["train/loss"] for line in read_metrics(folder.metrics) if "train/loss" in line]


def initial_model(experiment: Experiment) -> torch.nn.Module:
    torch.manual_seed(experiment.train.seed)
    return build_initialized(experiment, 257)[0]


def loop(experiment: Experiment, folder: RunFolder, steps: int, noise: Callable[[int, Any], Any]) -> torch.nn.Module:
    """Training written out: the mean loss of each recorded batch, SGD with rate 0.1, and noise on each gradient."""
    model = initial_model(experiment)
    for step in range(steps):
        ids, targets = torch.load(folder.path / f"batch-{step}-0.pt")
        loss = torch.nn.functional.cross_entropy(model(ids).flatten(0, 1), targets.flatten(), ignore_index=-1)
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * (parameter.grad + noise(step, parameter))
    return model


def test_gradient_noise_equals_a_loop_written_by_hand(tiny: Path) -> None:
    """The weights after 6 steps, with the noise of equation 1 of the paper drawn from a generator of the same seed."""
    noisy = "callback=['recorder', {use='gradient_noise', eta=0.5, gamma=0.6, seed=11}]"
    experiment = experiment_of(tiny, noisy, *SGD, "train.steps=6")
    folder = session.run(experiment)
    generator = torch.Generator().manual_seed(11)
    model = loop(
        experiment,
        folder,
        6,
        lambda step, p: (0.5 / (1 + step) ** 0.6) ** 0.5 * torch.randn(p.shape, generator=generator),
    )
    found = store.read_weights(newest(folder))
    for name, parameter in model.named_parameters():
        if name in found:
            torch.testing.assert_close(found[name], parameter.detach(), rtol=1e-4, atol=1e-5)
    clean = loop(experiment, folder, 6, lambda step, p: 0.0)
    difference = (clean.state_dict()["h.0.mlp.c_fc.weight"] - found["h.0.mlp.c_fc.weight"]).std()
    assert difference > 0.05  # the noise is not lost in the tolerance


def test_gradient_noise_resumes_to_the_bit(tiny: Path) -> None:
    options = ("train.steps=12", "checkpoint.every_steps=4")
    whole = session.run(experiment_of(tiny, NOISE, *options))
    with pytest.raises(RunFailed, match="unplugged"):
        session.run(experiment_of(tiny, NOISE.replace("]", ", 'crash']"), *options))
    resumed = session.run(experiment_of(tiny, NOISE, *options), resume="")
    assert [line["step"] for line in read_metrics(resumed.metrics) if "train/loss" in line] == list(range(1, 13))
    assert losses(resumed) == losses(whole)
    one, other = (store.read_weights(newest(folder)) for folder in (whole, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)
    states = [store.load_training(newest(folder))["callbacks"]["GradientNoise"] for folder in (whole, resumed)]
    assert torch.equal(states[0]["generator"], states[1]["generator"])


def test_changed_gradients_are_those_that_are_clipped_and_applied(tiny: Path) -> None:
    """Gradients of ones: every weight moves by the learning rate, scaled by the clipping."""
    options = (*SGD[:2], "train.steps=1", "train.grad_clip=0.5", "callback=[{use='change', gradient=1.0}]")
    experiment = experiment_of(tiny, *options)
    folder = session.run(experiment)
    before, after = initial_model(experiment), store.read_weights(newest(folder))
    norm = sum(parameter.numel() for parameter in before.parameters()) ** 0.5
    (line,) = [line for line in read_metrics(folder.metrics) if "train/loss" in line]
    assert line["optim/grad_norm"] == pytest.approx(norm, rel=1e-5)
    for name, parameter in before.named_parameters():
        if name in after:
            torch.testing.assert_close(after[name], parameter.detach() - 0.1 * 0.5 / norm, rtol=1e-4, atol=1e-6)


def test_the_hook_gets_the_gradients_of_fp16_without_the_scale_of_its_scaler(tiny: Path) -> None:
    found = []
    for precision in ("fp32", "fp16"):
        options = (*SGD, "train.steps=1", f"train.precision={precision}", "callback=['recorder']")
        folder = session.run(experiment_of(tiny, *options))
        found.append([gradient.norm() for gradient in torch.load(folder.path / "gradients-0.pt")])
    torch.testing.assert_close(*map(torch.stack, found), rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("micro", [1, 5])
def test_targets_that_a_callback_leaves_out_do_not_count(tiny: Path, micro: int) -> None:
    """The loss is the mean over the first 6 targets of each window, whatever the micro-batches."""
    options = (*SGD, "train.steps=3", f"train.micro_batch_size={micro}")
    experiment = experiment_of(tiny, *options, "callback=[{use='change', target_from=6}, 'recorder']")
    folder = session.run(experiment)
    model = initial_model(experiment)
    ids, targets = torch.load(folder.path / "batch-0-0.pt")
    assert torch.equal(targets >= 0, torch.arange(16).expand_as(targets) < 6)
    logits = model(ids)[:, :6].flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(logits, targets[:, :6].flatten())
    assert losses(folder)[0] == pytest.approx(loss.item(), rel=1e-5)
    loss.backward()
    gradients = torch.load(folder.path / "gradients-0.pt")
    for found, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(found, parameter.grad, rtol=1e-4, atol=1e-6)


def test_a_token_outside_of_the_vocabulary_is_named_with_its_callback(tiny: Path) -> None:
    with pytest.raises(RunFailed, match=r"Change left ids from \d+ to 257 in the batch of step 1; expected 0 to 256"):
        session.run(experiment_of(tiny, "callback=[{use='change', token=257}]"))


def test_a_batch_of_another_shape_is_named_with_its_callback(tiny: Path) -> None:
    message = r"Change left ids of shape \(16, \d+\) in the batch of step 1; expected \(\d+, 16\)"
    with pytest.raises(RunFailed, match=message):
        session.run(experiment_of(tiny, "callback=[{use='change', turns=true}]"))


def test_a_batch_that_a_callback_changed_is_named_so_in_a_failure(tiny: Path) -> None:
    options = ("callback=[{use='change', gradient=1e30}]", "train.grad_clip=0.0", "optimizer={use='sgd', lr=1e10}")
    with pytest.raises(
        NotFinite,
        match=r"windows that start at tokens [\d, ]+ of train, as Change left them, with gradients as Change left",
    ):
        session.run(experiment_of(tiny, *options))


def test_data_noising_replaces_the_fraction_of_inputs_and_no_target(tiny: Path) -> None:
    options = ("train.steps=8", "train.batch_tokens=480")
    plain = session.run(experiment_of(tiny, "callback=['recorder']", *options))
    noised = session.run(experiment_of(tiny, "callback=[{use='data_noising', fraction=0.25}, 'recorder']", *options))
    replaced = []
    for step in range(8):
        (ids, targets), (changed, same) = (torch.load(one.path / f"batch-{step}-0.pt") for one in (plain, noised))
        assert torch.equal(targets, same)
        replaced.append((ids != changed).float().mean().item())
        assert all(set(row.tolist()) <= set(before.tolist()) for row, before in zip(changed, ids, strict=True))
    assert len(set(replaced)) > 4  # other draws in each step
    assert 0.15 < np.mean(replaced) < 0.25  # a token may be replaced by an equal one


def test_a_callback_sees_the_optimizer_and_the_configuration(tiny: Path) -> None:
    tiny.with_name("seer.py").write_text(SEER)
    experiment = Experiment.load(tiny, ["components=['seer.py']", "callback=['seer']", "train.steps=2", *QUIET])
    folder = session.run(experiment)
    lr, config = json.loads((folder.path / "seen.json").read_text())
    assert lr == pytest.approx(3e-3 / 6)  # the first of 5 warmup steps
    assert config == experiment.resolved()


SEER = """\
import json
from nanogpt_kit.api import Callback, hookimpl

class Seer(Callback):
    is_tracker = True

    def build(self, run):
        return Eye()

class Eye:
    @hookimpl
    def gradients_ready(self, run, step):
        if step == 0:
            (run.path / "seen.json").write_text(json.dumps([run.optimizer.param_groups[0]["lr"], dict(run.config)]))
"""
