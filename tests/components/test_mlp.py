"""MLPs: their formulas in float64, how wide they are, what they weigh."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from nanogpt_kit.api import MLP, LayerContext, ResidualLinear
from nanogpt_kit.components.mlp.gelu import GELU
from nanogpt_kit.components.mlp.relu2 import ReLU2
from nanogpt_kit.components.mlp.swiglu import WIDTH_MULTIPLE, SwiGLU

B, T, C = 2, 5, 6


def context(n_embd: int = C, bias: bool = False, dropout: float = 0.0) -> LayerContext:
    sizes = {"n_embd": n_embd, "n_head": 1, "n_kv_head": 1, "head_dim": n_embd, "n_layer": 1, "block_size": T}
    return LayerContext(**sizes, dropout=dropout, bias=bias)


def built(kind: MLP, bias: bool) -> nn.Module:
    torch.manual_seed(1)
    module = kind.build(context(bias=bias))
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


def features() -> Tensor:
    return torch.randn(B, T, C, generator=torch.Generator().manual_seed(2))


def linear(module: nn.Module, name: str, x: Tensor) -> Tensor:
    """In float64, from the parameters alone."""
    weights = {key: value.double() for key, value in module.named_parameters()}
    return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", torch.zeros(()))


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.special.erf(x / math.sqrt(2)))


def gelu_by_tanh(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def relu2(x: Tensor) -> Tensor:
    return torch.where(x > 0, x * x, 0.0)


TWO_LAYERS = {
    "gelu": (GELU(), gelu),
    "gelu, tanh": (GELU(approximate="tanh"), gelu_by_tanh),
    "relu2": (ReLU2(), relu2),
    "gelu, narrow": (GELU(width=1.5), gelu),
    "relu2, narrow": (ReLU2(width=1.5), relu2),
}
biases = pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])


@biases
@pytest.mark.parametrize(("kind", "activation"), TWO_LAYERS.values(), ids=TWO_LAYERS)
def test_two_layers_with_an_activation_between(kind: MLP, activation, bias: bool) -> None:  # type: ignore[no-untyped-def]
    module, x = built(kind, bias), features()
    expected = linear(module, "c_proj", activation(linear(module, "c_fc", x.double())))
    torch.testing.assert_close(module(x).double(), expected, rtol=1e-5, atol=1e-5)
    assert {name.split(".")[1] for name, _ in module.named_parameters()} == ({"weight", "bias"} if bias else {"weight"})


@biases
def test_swiglu_is_its_formula(bias: bool) -> None:
    module, x = built(SwiGLU(), bias), features()
    gate = linear(module, "c_gate", x.double())
    expected = linear(module, "c_proj", gate / (1 + torch.exp(-gate)) * linear(module, "c_fc", x.double()))
    torch.testing.assert_close(module(x).double(), expected, rtol=1e-5, atol=1e-5)
    assert len(list(module.parameters())) == (6 if bias else 3)


@pytest.mark.parametrize(
    ("kind", "inside"),
    [
        *[(GELU(), 24), (GELU(width=1.5), 9), (GELU(width=0.5), 3)],
        *[(ReLU2(), 24), (ReLU2(width=2.7), 16)],
        *[(SwiGLU(), 16), (SwiGLU(width=4.0), 24), (SwiGLU(width=0.1), WIDTH_MULTIPLE)],
    ],
    ids=repr,
)
def test_the_width_is_a_multiple_of_the_features(kind: MLP, inside: int) -> None:
    shapes = {name: tuple(p.shape) for name, p in kind.build(context()).named_parameters()}
    assert shapes.pop("c_proj.weight") == (C, inside)
    assert set(shapes.values()) == {(inside, C)}


@pytest.mark.parametrize("n_embd", [384, 768, 1600])
def test_swiglu_weighs_what_gelu_does(n_embd: int) -> None:
    def weight(kind: MLP) -> int:
        return sum(p.numel() for p in kind.build(context(n_embd)).parameters())

    with torch.device("meta"):
        assert weight(GELU()) == weight(ReLU2()) == 8 * n_embd**2
        assert weight(SwiGLU()) == pytest.approx(weight(GELU()), rel=0.02)
        assert SwiGLU().build(context(n_embd)).c_fc.out_features % WIDTH_MULTIPLE == 0


@pytest.mark.parametrize("kind", [GELU(), ReLU2(), SwiGLU()], ids=repr)
def test_an_mlp_writes_once_into_the_residual_stream_and_drops_there(kind: MLP) -> None:
    module = kind.build(context(dropout=0.4))
    assert [name for name, part in module.named_modules() if isinstance(part, ResidualLinear)] == ["c_proj"]
    x = features().repeat(40, 1, 1)
    kept = module.eval()(x)
    torch.manual_seed(1)
    dropped = module.train()(x)
    zeros = dropped == 0
    assert zeros.float().mean().item() == pytest.approx(0.4, abs=0.05)
    torch.testing.assert_close(dropped[~zeros], kept[~zeros] / 0.6)
