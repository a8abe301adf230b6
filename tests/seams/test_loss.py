"""The loss seam: a run trains with another objective, and measures the same loss as before."""

from __future__ import annotations

import itertools
import logging
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from nanogpt_kit.cli.plugin_templates.component.loss import ActivationLoss
from nanogpt_kit.core.errors import KitError, RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.nn.flops import model_size
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.testing.loss import LossConformance
from nanogpt_kit.train import cores, session
from tests.seams.components.two_token import TwoToken
from tests.train.test_parallel import losses, runs
from tests.train.test_parallel import run as run_of_ranks

QUICK = ["callback=[]", "sample.num_samples=0", "train.steps=6", "evaluate.every_steps=3", "model.dropout=0.0"]
SOURCE = Path(__file__).parent / "components" / "two_token.py"
TWO_TOKEN = ["components=['two_token.py']", "model.loss=two_token"]
PENALTIES = ["model.loss={use='cross_entropy', label_smoothing=0.1, z_loss=0.01}"]
LOSSES = {"two-token": TWO_TOKEN, "penalties": PENALTIES}
WEIGHTS = ["loss.c_fc.weight", "loss.c_proj.weight"]


class TestTwoToken(LossConformance):
    component = TwoToken(coefficient=0.3)


class TestTheDocumentedLoss(LossConformance):
    component = ActivationLoss(coefficient=0.1)
    compiles = False


@pytest.fixture
def experiment(tiny: Path) -> Path:
    """The experiment of `tiny`, with the component file beside it."""
    shutil.copy(SOURCE, tiny.with_name("two_token.py"))
    return tiny


def run(experiment: Path, *options: str, **more: Any) -> RunFolder:
    return session.run(Experiment.load(experiment, [*QUICK, *options]), **more)


def logged(folder: RunFolder, *keys: str) -> dict[str, list[float]]:
    lines = list(read_metrics(folder.metrics))
    return {key: [line[key] for line in lines if key in line] for key in keys}


def said(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records)


# --- penalties of the cross-entropy ------------------------------------------------------------------------------


def test_penalties_change_what_is_learnt_and_not_what_is_measured(experiment: Path) -> None:
    plain, penalized = run(experiment), run(experiment, *PENALTIES)
    keys = "train/loss", "val/loss", "optim/grad_norm", "aux/label_smoothing", "aux/z_loss"
    without, found = logged(plain, *keys), logged(penalized, *keys)
    assert found["train/loss"][0] == without["train/loss"][0], "the same weights have the same loss"
    assert found["optim/grad_norm"][0] != without["optim/grad_norm"][0]
    assert found["val/loss"] != without["val/loss"]
    assert without["aux/label_smoothing"] == without["aux/z_loss"] == []
    assert found["aux/z_loss"][0] == pytest.approx(0.01 * math.log(257) ** 2, rel=0.05), "near uniform at first"
    assert len(found["aux/label_smoothing"]) == len(found["train/loss"]) == 6


@pytest.mark.parametrize("options", LOSSES.values(), ids=LOSSES)
def test_val_loss_is_the_plain_cross_entropy(experiment: Path, options: list[str]) -> None:
    folder = run(experiment, *options, "train.steps=2")
    generator = load_run(folder.path, trust_code=True)
    ids = torch.tensor([list(b"7 times 14 is 98")])
    with torch.no_grad():
        loss = generator.model(ids[:, :-1], ids[:, 1:])
        logits = generator.model(ids[:, :-1]).double()
    assert isinstance(loss, torch.Tensor)
    torch.testing.assert_close(
        loss.double(), F.cross_entropy(logits[0], ids[0, 1:], reduction="sum"), rtol=1e-5, atol=0
    )


KEYS = "train/loss", "val/loss", "optim/grad_norm", "aux/token_2", "aux/label_smoothing", "aux/z_loss"
WAYS = [
    ["train.micro_batch_size=5"],
    ["train.micro_batch_size=1", "train.activation_checkpointing=true"],
    ["train.micro_batch_size=4", "train.threads=2"],
]


@pytest.mark.parametrize(
    "ways", [WAYS, pytest.param([["train.compile=default"]], marks=pytest.mark.slow)], ids=["eager", "compiled"]
)
@pytest.mark.parametrize("options", LOSSES.values(), ids=LOSSES)
def test_however_a_batch_is_passed_the_values_are_equal(
    experiment: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], ways: list[list[str]]
) -> None:
    monkeypatch.setattr(cores, "MIN_SECONDS_PER_CHUNK", 1e-12)
    expected = logged(run(experiment, *options, "train.threads=1"), *KEYS)
    assert sum(map(bool, expected.values())) == (4 if options is TWO_TOKEN else 5)
    for way in ways:
        found = logged(run(experiment, *options, *way), *KEYS)
        for key, values in expected.items():
            assert found[key] == pytest.approx(values, rel=1e-4), (way, key)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks its ranks")
def test_two_processes_get_the_values_of_one(experiment: Path) -> None:
    """The five windows of a step are three on one rank and two on the other, which a sixth fills up."""
    more = (*QUICK[1:], *TWO_TOKEN, "train.steps=3", "name=n{}")
    plans = [(1, "one", "single"), (2, "ddp", "ddp"), (2, "fsdp", "fsdp")]
    one, *others = runs(
        *(
            run_of_ranks(experiment, size, f"parallel={parallel}", *(word.format(name) for word in more))
            for size, name, parallel in plans
        )
    )
    for other, key in itertools.product(others, ("train/loss", "val/loss", "optim/grad_norm", "aux/token_2")):
        assert losses(one, key)
        assert losses(other, key) == pytest.approx(losses(one, key), rel=1e-4), key


@pytest.mark.parametrize(
    ("option", "message"),
    {
        "model.loss.label_smoothing=1": "model.loss.label_smoothing: .*less than 1",
        "model.loss.label_smoothing=-0.1": "model.loss.label_smoothing: .*greater than or equal to 0",
        "model.loss.z_loss=-1": "model.loss.z_loss: .*greater than or equal to 0",
        "model.loss.zloss=1e-4": "model.loss.zloss.*z_loss",
        "model.loss.use=cross_entropie": "model.loss.*did you mean 'cross_entropy'",
    }.items(),
)
def test_a_wrong_option_is_named(experiment: Path, option: str, message: str) -> None:
    with pytest.raises(KitError, match=message):
        Experiment.load(experiment, ["model.loss=cross_entropy", option])


@pytest.mark.parametrize(
    ("option", "message"),
    {
        "label_smoothing=0.1": "model.loss.label_smoothing",
        "loss.label_smoothing=0.1": "model.loss.label_smoothing",
        "train.label_smoothing=0.1": "model.loss.label_smoothing",
        "label_smoothing_factor=0.1": "model.loss.label_smoothing",
        "z_loss=1e-4": "model.loss.z_loss",
        "zloss=1e-4": "model.loss.z_loss",
        "loss.z_loss=1e-4": "model.loss.z_loss",
        "model.z_loss=1e-4": "model.loss.z_loss",
        "loss=cross_entropy": "model.loss",
    }.items(),
)
def test_other_programs_names_lead_to_the_option(experiment: Path, option: str, message: str) -> None:
    with pytest.raises(KitError, match=rf"(?s){option.partition('.')[0].partition('=')[0]}.*{message}"):
        Experiment.load(experiment, [option])


MODEL = '''"""A model without a slot for a loss."""
from nanogpt_kit.api import Model
class Bare(Model):
    def build(self, ctx):
        raise NotImplementedError
'''


def test_a_model_without_the_slot_does_not_take_a_loss(experiment: Path) -> None:
    experiment.with_name("bare.py").write_text(MODEL)
    with pytest.raises(KitError, match=r"model\.loss: unknown (key|option)"):
        Experiment.load(experiment, ["components=['bare.py']", "model=bare", "model.loss=cross_entropy"])


# --- two-token prediction ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ignored", [[], [0], [3], [2, 3], [5], list(range(6))], ids=str)
def test_targets_two_ahead_do_not_cross_what_is_ignored(ignored: list[int]) -> None:
    suite = TestTwoToken()
    module, (x, weight) = suite.build(), suite.inputs()
    x, targets = torch.cat([x, x[:, :1]], dim=1)[:1], torch.tensor([[4, 9, 1, 30, 17, 8]])  # (1, T, C), (1, T)
    targets[0, ignored] = -1
    expected = torch.zeros(())
    for t, (following, after) in enumerate(itertools.pairwise(targets[0].tolist())):
        if following >= 0 and after >= 0:
            features = x[0, t] + module.c_proj(F.gelu(module.c_fc(x[0, t])))
            expected = expected - 0.3 * (weight[:37] @ features).log_softmax(0)[after]
    found = module(x, weight, targets, 37, None)
    torch.testing.assert_close(found.extras["token_2"], expected.detach(), rtol=1e-5, atol=1e-6)


def test_from_the_same_weights_it_measures_the_same_loss_and_learns_another_one(
    experiment: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = run(experiment, "name=base")
    start = "model.init_from=base"
    with caplog.at_level(logging.INFO):
        one, two = run(experiment, start, "name=one"), run(experiment, start, *TWO_TOKEN, "name=two")
    keys = "train/loss", "val/loss", "aux/token_2"
    without, found = logged(one, *keys), logged(two, *keys)
    assert found["train/loss"][0] == without["train/loss"][0]
    assert found["val/loss"][0] == without["val/loss"][0] == logged(plain, "val/loss")["val/loss"][-1]
    assert found["train/loss"][1:] != without["train/loss"][1:]
    assert without["aux/token_2"] == []
    assert found["aux/token_2"][-1] < found["aux/token_2"][0]
    lines = [line for line in said(caplog).splitlines() if "model.loss" in line]
    (sentence,) = lines
    assert sentence.startswith("the weights of model.loss are initialized, not taken from ")
    assert all(name in sentence for name in WEIGHTS)


def test_a_resumed_run_equals_one_that_was_not_interrupted(experiment: Path) -> None:
    every = ["checkpoint.every_steps=3", *TWO_TOKEN]
    whole = run(experiment, *every, "name=whole")
    experiment.with_name("stopper.py").write_text(
        '"""Stops in the midst."""\nfrom nanogpt_kit.api import Callback, hookimpl\n'
        "class Stopper(Callback):\n    def build(self, run):\n        return Stop()\n"
        "class Stop:\n    @hookimpl\n    def step_finished(self, run, step):\n"
        "        if step == 4:\n            raise ValueError('enough')\n"
    )
    stopped = ["components=['two_token.py', 'stopper.py']", "callback=['stopper']", "name=part"]
    with pytest.raises(RunFailed, match="enough"):
        run(experiment, *every, *stopped)
    part = run(experiment, *every, "name=part", resume="")
    keys = "train/loss", "val/loss", "aux/token_2", "optim/grad_norm"
    assert logged(part, *keys) == logged(whole, *keys)
    ended, expected = (load_run(folder.path, trust_code=True).model.state_dict() for folder in (part, whole))
    assert all(torch.equal(ended[name], expected[name]) for name in expected)
    initial = load_run(run(experiment, *every, "train.steps=0", "name=none").path, trust_code=True).model.state_dict()
    for name in WEIGHTS:
        assert not torch.equal(ended[name], initial[name]), f"{name} is not trained"


def test_a_resumed_run_keeps_its_loss(experiment: Path) -> None:
    folder = run(experiment, *TWO_TOKEN, "train.steps=3")
    for option in ("model.loss=cross_entropy", "model.loss.coefficient=0.5"):
        with pytest.raises(KitError, match=r"model\.loss"):
            run(experiment, *TWO_TOKEN, option, resume=str(folder.path))


def test_a_run_is_sampled_evaluated_and_exported_without_the_weights_of_its_loss(
    experiment: Path, tmp_path: Path, command: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    folder = run(experiment, *TWO_TOKEN)
    sampled = command("sample", folder.path, "--prompt", "7", "--max-new-tokens", 3, "--trust-code")
    assert sampled.code == 0, sampled.err
    measured = command("eval", folder.path, "--trust-code", "--json")
    assert measured.code == 0, measured.err
    assert str(logged(folder, "val/loss")["val/loss"][-1])[:8] in measured.out
    ids = torch.arange(7)[None]
    for format in ("safetensors", "nanogpt", "huggingface"):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            exported = command("export", folder.path, tmp_path / format, "--format", format, "--trust-code")
        assert exported.code == 0, exported.err
        assert ("left out" in said(caplog)) == (format != "safetensors")
        overrides = [] if format == "safetensors" else ["tokenizer=byte"]
        model = load_run(tmp_path / format, trust_code=True, overrides=overrides).model
        with torch.no_grad():
            expected = load_run(folder.path, trust_code=True).model(ids)
            torch.testing.assert_close(model(ids), expected, rtol=0, atol=1e-5)


# --- training that starts from the weights of a model with another loss ------------------------------------------


def test_weights_of_a_loss_that_is_not_the_new_one_are_left_out(
    experiment: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = run(experiment, *TWO_TOKEN, "name=base")
    with caplog.at_level(logging.INFO):
        after = run(experiment, "model.init_from=base", "train.steps=0", "name=after")
    assert logged(after, "val/loss")["val/loss"] == logged(before, "val/loss")["val/loss"][-1:]
    (sentence,) = [line for line in said(caplog).splitlines() if "another loss" in line]
    assert sentence.startswith("left out the weights of another loss in ")
    assert all(name in sentence for name in WEIGHTS)
    assert "WARNING" not in {record.levelname for record in caplog.records}


def test_weights_of_the_same_loss_are_taken_also_with_another_coefficient(
    experiment: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = run(experiment, *TWO_TOKEN, "name=base")
    more = ["model.init_from=base", "model.loss.coefficient=0.5", "train.steps=0", "name=after"]
    with caplog.at_level(logging.INFO):
        after = run(experiment, *TWO_TOKEN, *more)
    found, expected = (load_run(folder.path, trust_code=True).model.state_dict() for folder in (after, before))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert "model.loss" not in said(caplog)


def test_weights_that_do_not_fit_otherwise_are_still_named(experiment: Path) -> None:
    run(experiment, "name=base")
    with pytest.raises(KitError, match=r"set model.n_layer=2, as in their run: h.2.ln_1.weight is missing"):
        run(experiment, *TWO_TOKEN, "model.init_from=base", "model.n_layer=3", "name=after")


def test_the_loss_counts_among_the_parameters(experiment: Path) -> None:
    plain, two = (model_size(Experiment.load(experiment, options).model, 257) for options in ([], TWO_TOKEN))
    assert two.parameters == {**plain.parameters, "matrix": plain.parameters["matrix"] + 2 * 24 * 24}
