"""Training that starts from trained weights."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nanogpt_kit.core.errors import KitError, RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.runs.find import find_run
from nanogpt_kit.runs.folder import RunFolder, runs_root
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.train import session, setup
from nanogpt_kit.train.trainer import Trainer
from nanogpt_kit.train.warm_start import WarmStart

QUICK = ["callback=[]", "sample.num_samples=0"]


@pytest.fixture
def trained(tiny: Path, once: Callable[..., list[RunFolder]]) -> RunFolder:
    return once("quick", lambda: session.run(Experiment.load(tiny, QUICK)))[0]


def run(tiny: Path, *options: str) -> RunFolder:
    return session.run(Experiment.load(tiny, [*QUICK, "name=tuned", "model.init_from=tiny", *options]))


def evaluations(folder: RunFolder) -> dict[int, float]:
    return {line["step"]: line["val/loss"] for line in read_metrics(folder.metrics) if "val/loss" in line}


def test_training_starts_where_the_other_run_ended(tiny: Path, trained: RunFolder) -> None:
    tuned = evaluations(run(tiny))
    assert tuned[0] == evaluations(trained)[20]
    assert tuned[20] < tuned[0]


def test_no_steps_only_evaluate(tiny: Path, trained: RunFolder) -> None:
    folder = run(tiny, "train.steps=0")
    assert evaluations(folder) == {0: evaluations(trained)[20]}
    assert folder.status().state == "finished"
    for mine, theirs in zip(load_run("tuned").model.parameters(), load_run("tiny").model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_weights_to_start_from_are_freed_before_training(
    tiny: Path, trained: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be gigabytes, and the model has its own copy of them."""
    seen: list[weakref.ref[torch.Tensor]] = []
    find_start, alive = WarmStart.find, []

    def found(*args: Any) -> Any:
        start = find_start(*args)
        seen.extend(weakref.ref(weight) for weight in start.weights.values())
        return start

    def train(self: Trainer) -> None:
        gc.collect()
        alive.extend(reference for reference in seen if reference() is not None)

    monkeypatch.setattr(WarmStart, "find", found)
    monkeypatch.setattr(Trainer, "train", train)
    run(tiny)
    assert seen
    assert not alive


def test_the_context_may_be_cropped(tiny: Path, trained: RunFolder) -> None:
    run(tiny, "train.steps=0", "model.block_size=8")
    model = load_run("tuned").model
    assert model.position.wpe.weight.shape == (8, 24)
    ids = torch.arange(8)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(ids), load_run("tiny").model(ids), rtol=0, atol=1e-6)


def test_a_run_may_be_named_by_its_folder_and_is_told_in_the_provenance(tiny: Path, trained: RunFolder) -> None:
    folder = run(tiny, f"model.init_from={trained.path}", "train.steps=1")
    origin = json.loads((folder.path / "provenance.json").read_text())["init_from"]
    assert origin["checkpoint"] == str(trained.checkpoints / "step-00000020")
    assert len(origin["sha256"]) == 64


def test_a_resumed_run_needs_no_other(tiny: Path, trained: RunFolder) -> None:
    whole = run(tiny)
    with pytest.raises(RunFailed, match="enough"):
        run(tiny, "callback=['stopper']", f"components=['{stopper(tiny)}']")
    part = find_run("tuned").runs[-1]
    shutil.rmtree(trained.path.parent)
    experiment = Experiment.load(tiny, [*QUICK, "name=tuned", "model.init_from=tiny"])
    session.run(experiment, resume=str(part.path))
    ended, expected = load_run(part.path, trust_code=True).model, load_run(whole.path).model
    for mine, theirs in zip(ended.parameters(), expected.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def stopper(tiny: Path, step: int = 13) -> Path:
    path = tiny.with_name("stopper.py")
    path.write_text(
        '"""Stops in the midst."""\nfrom nanogpt_kit.api import Callback, hookimpl\n'
        "class Stopper(Callback):\n    def build(self, run):\n        return Stop()\n"
        "class Stop:\n    @hookimpl\n    def step_finished(self, run, step):\n"
        f"        if step == {step}:\n            raise ValueError('enough')\n"
    )
    return path


REFUSED = {
    "no such run": (["model.init_from=tinny"], "model.init_from: no run 'tinny'.*did you mean 'tiny'"),
    "other tokens": (["tokenizer=char"], "tokenizer: .* was trained on other tokens: byte of 257 tokens, here char; "),
    "another width": (
        ["model.n_embd=48"],
        r"set model.n_embd=24, as in their run: wte.weight is \[320, 24\] there and \[320, 48\] in the model",
    ),
    "more layers": (
        ["model.n_layer=3"],
        "set model.n_layer=2, as in their run: h.2.ln_1.weight is missing",
    ),
    "other tokens, too": (
        ["model.n_layer=3", "tokenizer=char"],
        "h.2.ln_1.weight is missing.*was trained on other tokens",
    ),
    "fewer layers": (["model.n_layer=1"], "h.1.ln_1.weight is not a tensor of the model"),
    "a longer context": (["model.block_size=20"], r"position.wpe.weight is \[16, 24\] there and \[20, 24\]"),
}


@pytest.mark.parametrize(("options", "told"), REFUSED.values(), ids=REFUSED)
def test_weights_that_do_not_fit_are_named_and_leave_no_run(
    tiny: Path, trained: RunFolder, options: list[str], told: str
) -> None:
    with pytest.raises(KitError, match=f"(?s){told}"):
        run(tiny, *options)
    assert not (runs_root() / "tuned").exists() or not list((runs_root() / "tuned").iterdir())


def test_options_that_fit_and_mean_something_else_are_named(
    tiny: Path, trained: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    more = ("model.bf16_residual=true", "train.precision=bf16", "train.device=cpu")  # rounds, and means the same
    run(tiny, "model.n_head=2", "model.dropout=0.0", "train.steps=0", *more)
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warned == [f"model.n_head is 2 here and was 3 in {find_run('tiny').folder.checkpoints / 'step-00000020'}"]


def test_another_attention_and_a_window_are_named_and_the_same_softmax_is_not(
    tiny: Path, trained: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    run(tiny, "model.attention=naive", "train.steps=0")
    assert "attention" not in caplog.text
    run(tiny, 'model.attention={use="sdpa", window=2}', "train.steps=0")
    assert "model.attention.window is 2 here and was None" in caplog.text


def test_a_list_of_the_same_softmax_in_every_layer_is_no_difference_and_windows_by_turns_are(
    tiny: Path, trained: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    run(tiny, 'model.attention=["naive", "sdpa"]', 'model.norm=["layernorm"]', "train.steps=0")
    assert " here and was " not in caplog.text
    run(tiny, 'model.attention=["sdpa", {use="sdpa", window=2}]', "train.steps=0")
    assert "model.attention is ['sdpa', {'use': 'sdpa', 'window': 2}] here and was 'sdpa'" in caplog.text


def test_untied_weights_do_not_fit_a_model_with_tied_weights(tiny: Path) -> None:
    session.run(Experiment.load(tiny, [*QUICK, "model.weight_tying=false"]))
    with pytest.raises(KitError, match=r"differ there.* one tensor in the model"):
        run(tiny)


@pytest.mark.usefixtures("with_dropout")
def test_a_run_killed_before_its_first_checkpoint_begins_from_the_same_weights(tiny: Path, trained: RunFolder) -> None:
    with pytest.raises(RunFailed, match="enough"):
        run(tiny, "callback=['stopper']", f"components=['{stopper(tiny, 3)}']")
    part = find_run("tuned").folder
    session.run(Experiment.load(tiny, [*QUICK, "train.seed=2"]))  # a newer run of the name that it began from
    experiment = Experiment.load(tiny, [*QUICK, "name=tuned", "model.init_from=tiny"])
    session.run(experiment, resume=str(part.path))
    assert evaluations(part)[0] == evaluations(trained)[20]
    start = f"model.init_from={find_run('tiny').folder}"
    with pytest.raises(RunFailed, match="enough"):
        run(tiny, start, "callback=['stopper']", f"components=['{stopper(tiny, 3)}']")
    shutil.rmtree(find_run("tiny").folder.checkpoints)
    again = Experiment.load(tiny, [*QUICK, "name=tuned", start])
    with pytest.raises(KitError, match=r"model.init_from: .*step-00000020.* changed or removed"):
        session.run(again, resume=find_run("tuned").runs[-1])


def test_weights_that_do_not_fit_are_named_before_any_data_is_touched(
    tiny: Path, trained: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "prepare", lambda *args, **options: pytest.fail("the data is prepared"))
    with pytest.raises(KitError, match="do not fit the model"):
        run(tiny, "model.n_embd=48")


def test_buffers_that_a_constructor_computes_survive_loading(tiny: Path) -> None:
    tiny.with_name("scaled.py").write_text(
        '"""Twice the features."""\nimport torch\nfrom torch import nn\nfrom nanogpt_kit.api import Norm\n'
        "class Scaled(Norm):\n    def build(self, ctx):\n        return Twice(ctx.n_embd)\n"
        "class Twice(nn.LayerNorm):\n    def __init__(self, size):\n        super().__init__(size)\n"
        "        self.steps = [x.item() for x in torch.linspace(0, 1, 3)]\n"  # impossible on the meta device
        "        fixed = nn.init.constant_(torch.empty(size), 2.0)\n"
        "        self.register_buffer('fixed', fixed, persistent=False)\n"
        "    def forward(self, x):\n        return super().forward(x) * self.fixed\n"
    )
    session.run(Experiment.load(tiny, [*QUICK, "components=['scaled.py']", "model.norm=scaled"]))
    assert (load_run("tiny").model.ln_f.fixed == 2).all()
