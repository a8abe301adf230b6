"""Inits: how large weights begin, and that zero_residual's blocks begin as nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from nanogpt_kit.api import Init, ModelContext, ResidualLinear, View
from nanogpt_kit.components.init.gpt2 import GPT2
from nanogpt_kit.components.init.zero_residual import ZeroResidual
from nanogpt_kit.components.model.gpt import GPT
from nanogpt_kit.nn.parameter_shapes import parameter_shapes

B, T, C, L, V = 2, 7, 256, 3, 320


def built(init: Init, **options: object) -> nn.Module:
    torch.manual_seed(0)
    model = GPT(n_layer=L, n_head=4, n_embd=C, block_size=64, **options).build(ModelContext(vocab_size=V))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.fill_(torch.nan)  # each of them is to be drawn
    init.apply(model, parameter_shapes(model))
    return model


def matrices(model: nn.Module) -> dict[str, tuple[nn.Module, Tensor]]:
    return {
        name: (part, part.weight) for name, part in model.named_modules() if isinstance(part, nn.Linear | nn.Embedding)
    }


OPTIONS = {
    "default": {},
    "untied head": {"weight_tying": False},
    "grouped, gated": {"n_kv_head": 2, "mlp": "swiglu", "norm": "rmsnorm", "position": "rope"},
}
of_all = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


@of_all
@pytest.mark.parametrize("std", [0.02, 0.1])
def test_gpt2_draws_all_alike_and_less_where_layers_add_up(options: dict[str, object], std: float) -> None:
    model = built(GPT2(std=std), **options)
    found = matrices(model)
    assert sum(isinstance(part, ResidualLinear) for part, _ in found.values()) == 2 * L
    for name, (part, weight) in found.items():
        expected = std / math.sqrt(2 * L) if isinstance(part, ResidualLinear) else std
        assert weight.std().item() == pytest.approx(expected, rel=0.03), name
        assert weight.mean().abs().item() < 5 * expected / math.sqrt(weight.numel()), name


def test_an_untied_head_is_drawn_by_itself() -> None:
    for init in (GPT2(), ZeroResidual()):
        model = built(init, weight_tying=False)
        assert not torch.equal(model.lm_head.weight, model.wte.weight)
        tied = built(init)
        assert tied.lm_head.weight is tied.wte.weight


@of_all
@pytest.mark.parametrize("std", [0.02, 0.1])
def test_zero_residual_draws_all_but_what_writes_into_the_stream(options: dict[str, object], std: float) -> None:
    for name, (part, weight) in matrices(built(ZeroResidual(std=std), **options)).items():
        if isinstance(part, ResidualLinear):
            assert not weight.any(), name
        else:
            assert weight.std().item() == pytest.approx(std, rel=0.03), name


@of_all
@pytest.mark.parametrize("init", [GPT2(), ZeroResidual()], ids=repr)
def test_biases_begin_at_zero_and_gains_at_one(init: Init, options: dict[str, object]) -> None:
    torch.manual_seed(1)
    model = built(GPT2(), **options)
    before = {name: parameter for name, parameter in model.named_parameters() if parameter.ndim < 2}
    assert any(name.endswith("c_fc.bias") for name in before)
    for name, parameter in before.items():
        if "ln_" not in name:
            nn.init.ones_(parameter)
    init.apply(model, parameter_shapes(model))
    for name, parameter in before.items():
        assert (parameter == (1.0 if "ln_" in name and "weight" in name else 0.0)).all(), name


@torch.no_grad()
@of_all
def test_under_zero_residual_each_block_is_the_identity_until_it_is_trained(options: dict[str, object]) -> None:
    model = built(ZeroResidual(), **options)
    x, view = torch.randn(B, T, C), View.causal(torch.arange(T)[None])
    for block in model.h:
        assert torch.equal(block(x, model.position, view, None), x)
    ids = torch.randint(0, V, (B, T))
    embedded = model.position.embed(model.wte(ids), view.query_positions)
    torch.testing.assert_close(model(ids), model.ln_f(embedded) @ model.lm_head.weight[:V].T)
    assert (model(ids).std() > 0).item(), "the head is not zero"


def test_under_zero_residual_a_step_moves_every_block() -> None:
    model = built(ZeroResidual())
    ids = torch.randint(0, V, (B, T))
    model(ids, ids.roll(-1, 1)).backward()
    for name, (part, weight) in matrices(model).items():
        if isinstance(part, ResidualLinear):
            assert weight.grad.any(), name


@pytest.mark.parametrize("init", [GPT2(), ZeroResidual()], ids=repr)
def test_an_init_draws_from_torchs_generator_alone(init: Init) -> None:
    one, other = built(init), built(init)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    torch.manual_seed(7)
    init.apply(other, parameter_shapes(other))
    assert not torch.equal(one.wte.weight, other.wte.weight)


@pytest.mark.parametrize("init", [GPT2(), ZeroResidual()], ids=repr)
def test_the_first_loss_is_that_of_guessing(init: Init) -> None:
    model = built(init)
    ids = torch.randint(0, V, (4, 50))
    assert model(ids, ids.roll(-1, 1)).item() / ids.numel() == pytest.approx(math.log(V), abs=0.2)
