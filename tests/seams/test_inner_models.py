"""A model may add weights to another one: training starts from a run of that one, and formats write both merged."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.interop.exporting import export_model
from nanogpt_kit.nn.initial_weights import build_initialized
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.testing.model import ModelConformance
from nanogpt_kit.train import session
from nanogpt_kit.train.starting_weights import completed_weights
from tests.seams.components.shifted import Shifted
from tests.testing.remedies import assert_fails

COMPONENT = Path(__file__).with_name("components") / "shifted.py"
GPT = 'n_layer=2, n_head=3, n_embd=24, block_size=16, bias=false, norm={use="layernorm", bias=true}'
OVERRIDES = [
    *("callback=[]", "sample.num_samples=0", "name=shifted", f"components=['{COMPONENT}']"),
    f'model={{use="shifted", block_size=16, inner={{use="gpt", {GPT}}}}}',
]
INNER = {"use": "gpt", "n_layer": 1, "n_head": 3, "n_embd": 24, "block_size": 11}
IDS = torch.arange(16)[None]


class TestShifted(ModelConformance):
    component = Shifted.model_validate({"inner": INNER, "block_size": 11})
    compiles = False


class MergesNothing(Shifted):
    def merge(self, module: nn.Module) -> nn.Module:
        return copy.deepcopy(module)


class MergesInPlace(Shifted):
    def merge(self, module: nn.Module) -> nn.Module:
        merged = super().merge(module)
        module.ln_f.shift.data.zero_()
        return merged


@pytest.mark.parametrize("broken", [MergesNothing, MergesInPlace])
def test_the_suite_catches_a_wrong_merge(broken: type[Shifted]) -> None:
    suite = type("Suite", (TestShifted,), {"component": broken.model_validate({"inner": INNER, "block_size": 11})})()
    assert_fails(suite, "test_merged_it_is_its_inner_model_and_computes_the_same")


@pytest.fixture
def inner(tiny: Path) -> RunFolder:
    experiment = Experiment.load(tiny, [*OVERRIDES[:2], f'model={{use="gpt", {GPT}}}'])
    return session.run(experiment)


def train(tiny: Path, *overrides: str) -> RunFolder:
    return session.run(Experiment.load(tiny, [*OVERRIDES, *overrides], trust_code=True))


@torch.no_grad()
def logits(name: str) -> Tensor:
    found: Tensor = load_run(name, trust_code=True).model(IDS)
    return found


def test_training_starts_from_a_run_of_the_inner_model(tiny: Path, inner: RunFolder) -> None:
    train(tiny, "model.init_from=tiny", "train.steps=3")
    before, after = (load_run(name, trust_code=True).model.state_dict() for name in ("tiny", "shifted"))
    assert after.keys() - before.keys() == {"ln_f.shift"}
    assert after["ln_f.shift"].any()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_options_that_differ_are_named_with_the_key_of_the_inner_model(tiny: Path, inner: RunFolder) -> None:
    with pytest.raises(KitError, match=r"set model\.inner\.n_layer=2, as in their run: h\.2"):
        train(tiny, "model.init_from=tiny", "model.inner.n_layer=3")


def test_a_format_writes_both_merged(tiny: Path, inner: RunFolder, tmp_path: Path) -> None:
    train(tiny, "model.init_from=tiny", "train.steps=3")
    loaded = load_run("shifted", trust_code=True)
    for name in ("safetensors", "huggingface"):
        export_model(loaded.experiment, loaded.model, loaded.encoder, name, tmp_path / name)
    exported = load_run(tmp_path / "safetensors", trust_code=True)
    assert exported.experiment.resolved()["model"]["use"] == "gpt"
    with torch.no_grad():
        torch.testing.assert_close(exported.model(IDS), loaded.model(IDS), rtol=0, atol=1e-6)


def test_schedules_of_options_of_the_inner_model_are_exported_with_its_keys(tiny: Path, tmp_path: Path) -> None:
    windows = "model.inner.attention={use='sdpa', window=8}"
    drop = "{use='linear', warmup_steps=0, target='model.inner.attention.window', final_fraction=0.5}"
    train(tiny, windows, f"schedule=['constant', {drop}]", "train.steps=2")
    loaded = load_run("shifted", trust_code=True)
    export_model(loaded.experiment, loaded.model, loaded.encoder, "safetensors", tmp_path / "out")
    exported = load_run(tmp_path / "out", trust_code=True).experiment
    assert [schedule.target for schedule in exported.schedules] == ["optimizer.lr", "model.attention.window"]


def test_random_weights_of_the_inner_model_are_noted(tiny: Path) -> None:
    random = "model.init_from is omitted, so the weights of model.inner are random at the start, not trained ones"
    assert random in Experiment.load(tiny, OVERRIDES, trust_code=True).notes
    assert random not in Experiment.load(tiny, [*OVERRIDES, "model.init_from=tiny"], trust_code=True).notes


def test_the_inner_model_alone_starts_from_both_merged(tiny: Path, inner: RunFolder) -> None:
    train(tiny, "model.init_from=tiny", "train.steps=3")
    further = [*OVERRIDES[:2], "name=further", f'model={{use="gpt", {GPT}, init_from="shifted"}}', "train.steps=0"]
    session.run(Experiment.load(tiny, [*further, OVERRIDES[3]], trust_code=True), trust_code=True)
    torch.testing.assert_close(logits("further"), logits("shifted"), rtol=0, atol=1e-6)
    assert not torch.allclose(logits("further"), logits("tiny"), rtol=0, atol=1e-4)


def test_weights_of_the_inner_model_alone_are_completed_and_part_of_the_others_is_not(tiny: Path) -> None:
    experiment = Experiment.load(tiny, OVERRIDES, trust_code=True)
    module, _ = build_initialized(experiment, 257)
    state = module.state_dict()
    alone = {name: value for name, value in state.items() if name != "ln_f.shift"}
    assert completed_weights(alone, module, experiment.model).keys() == state.keys()
    assert completed_weights(state, module, experiment.model).keys() == state.keys()
