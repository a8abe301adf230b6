"""Norms: their formulas in float64, their options, and one of a local file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from nanogpt_kit.api import LayerContext, Norm
from nanogpt_kit.checkpoint import store
from nanogpt_kit.components.norm.layernorm import LayerNorm
from nanogpt_kit.components.norm.rmsnorm import RMSNorm
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.train import session

B, T, C = 2, 5, 7


def context(bias: bool = True) -> LayerContext:
    sizes = {"n_embd": C, "n_head": 1, "n_kv_head": 1, "head_dim": C, "n_layer": 1, "block_size": T}
    return LayerContext(**sizes, dropout=0.0, bias=bias)


def filled(norm: Norm, bias: bool = True) -> nn.Module:
    """With gains and shifts that are not one and zero."""
    module = norm.build(context(bias))
    for number, parameter in enumerate(module.parameters()):
        nn.init.normal_(parameter, mean=1.0, std=0.5, generator=torch.Generator().manual_seed(number))
    return module


def features(scale: float) -> Tensor:
    return scale * (1.5 + torch.randn(B, T, C, generator=torch.Generator().manual_seed(9)))


scales = pytest.mark.parametrize("scale", [1.0, 1e3, 1e-2])
epsilons = pytest.mark.parametrize("eps", [1e-5, 0.3])


@scales
@epsilons
@pytest.mark.parametrize("bias", [True, False])
def test_layernorm_is_its_formula(bias: bool, eps: float, scale: float) -> None:
    module, x = filled(LayerNorm(eps=eps), bias), features(scale)
    own = dict(module.named_parameters())
    centred = x.double() - x.double().sum(-1, keepdim=True) / C
    variance = (centred**2).sum(-1, keepdim=True) / C
    expected = centred / (variance + eps) ** 0.5 * own["weight"]
    expected = expected + own["bias"] if bias else expected
    assert set(own) == ({"weight", "bias"} if bias else {"weight"})
    torch.testing.assert_close(module(x).double(), expected, rtol=0, atol=1e-5)


@scales
@epsilons
@pytest.mark.parametrize("gain", [True, False])
def test_rmsnorm_is_its_formula(gain: bool, eps: float, scale: float) -> None:
    module, x = filled(RMSNorm(eps=eps, gain=gain)), features(scale)
    own = dict(module.named_parameters())
    square = (x.double() ** 2).sum(-1, keepdim=True) / C
    expected = x.double() / (square + eps) ** 0.5 * (own["weight"] if gain else 1.0)
    assert set(own) == ({"weight"} if gain else set())
    torch.testing.assert_close(module(x).double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("own", "models", "shifts"),
    [
        *[(None, True, True), (None, False, False)],
        *[(True, True, True), (True, False, True)],
        *[(False, True, False), (False, False, False)],
    ],
)
def test_layernorm_shifts_as_the_model_does_unless_told_otherwise(own: bool | None, models: bool, shifts: bool) -> None:
    module = LayerNorm(bias=own).build(context(bias=models))
    assert ("bias" in dict(module.named_parameters())) == shifts


@pytest.mark.parametrize("norm", [LayerNorm(), RMSNorm()], ids=repr)
def test_a_norm_begins_with_gains_of_one_and_shifts_of_zero(norm: Norm) -> None:
    for name, parameter in norm.build(context()).named_parameters():
        assert (parameter == (1.0 if name == "weight" else 0.0)).all()


@pytest.mark.parametrize("norm", [LayerNorm(), RMSNorm(), RMSNorm(gain=False)], ids=repr)
def test_a_row_of_zeros_stays_finite_and_has_a_gradient(norm: Norm) -> None:
    x = features(1.0)
    x[1, 2] = 0.0
    x.requires_grad_()
    out = norm.build(context(bias=False))(x)
    (out * features(0.1)).sum().backward()
    assert (out[1, 2] == 0).all()
    assert x.grad.isfinite().all()


MANHATTAN = """\
import torch
from torch import nn

from nanogpt_kit.api import Field, LayerContext, Norm


class Manhattan(Norm):
    eps: float = Field(1e-5, gt=0, description="added to the mean of the magnitudes")

    def build(self, ctx: LayerContext) -> nn.Module:
        return Divide(ctx.n_embd, self.eps)


class Divide(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.gain = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return x / (x.abs().mean(-1, keepdim=True) + self.eps) * self.gain
"""


def test_a_norm_of_a_local_file_trains_resumes_and_writes(tiny: Path) -> None:
    tiny.with_name("manhattan.py").write_text(MANHATTAN, encoding="utf-8")
    options = ["components=['manhattan.py']", 'model.norm={use="manhattan", eps=0.01}', "model.qk_norm=true"]
    steps = ["callback=[]", "schedule=constant", "train.steps=3"]
    folder = session.run(Experiment.load(tiny, [*options, *steps]))
    assert folder.status().state == "finished"
    session.run(Experiment.load(tiny, [*options, *steps, "train.steps=5"]), resume=str(folder))
    checkpoint = store.newest_whole_checkpoint(folder.checkpoints)
    assert checkpoint is not None
    weights = load_file(checkpoint / store.MODEL)
    names = {"ln_f.gain", *(f"h.{n}.{part}.gain" for n in (0, 1) for part in ("ln_1", "ln_2"))}
    names |= {f"h.{n}.attn.{part}_norm.gain" for n in (0, 1) for part in "qk"}
    assert {name for name in weights if "ln_" in name or "norm" in name} == names
    assert all((weights[name] != 1).any() for name in names), "each was trained"
    assert load_run(folder.path).generate(["1"], max_new_tokens=3)
