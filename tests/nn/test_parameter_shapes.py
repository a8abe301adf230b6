"""What an init knows of each parameter, and the groups that follow from its learning rates."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from nanogpt_kit.api import Init, KitError, ModelContext, ParameterShape
from nanogpt_kit.components.init.gpt2 import GPT2
from nanogpt_kit.components.model.gpt import GPT
from nanogpt_kit.components.optimizer.adamw import AdamW
from nanogpt_kit.nn.parameter_groups import describe_rates, parameter_groups, peak_rates, rates_by_role
from nanogpt_kit.nn.parameter_shapes import parameter_shapes
from nanogpt_kit.nn.roles import parameters_by_role

L, H, C, V, ROWS, BLOCK = 3, 4, 24, 37, 64, 13


def built(**options: object) -> nn.Module:
    sizes = {"n_layer": L, "n_head": H, "n_embd": C, "block_size": BLOCK}
    return GPT(**{**sizes, **options}).build(ModelContext(vocab_size=V))


def test_every_parameter_has_its_role_layer_and_fans() -> None:
    model = built(weight_tying=False)
    shapes = parameter_shapes(model)
    assert list(shapes) == [name for name, _ in model.named_parameters()]
    found = {name: (s.role, s.layer, s.fan_out, s.fan_in, s.shape) for name, s in shapes.items()}
    assert found["wte.weight"] == ("embedding", None, C, 1, (ROWS, C))
    assert found["position.wpe.weight"] == ("embedding", None, C, 1, (BLOCK, C))
    assert found["lm_head.weight"] == ("head", None, ROWS, C, (ROWS, C))
    assert found["ln_f.weight"] == ("vector", None, C, 1, (C,))
    for layer in range(L):
        assert found[f"h.{layer}.ln_1.bias"] == ("vector", layer, C, 1, (C,))
        assert found[f"h.{layer}.attn.c_attn.weight"] == ("matrix", layer, 3 * C, C, (3 * C, C))
        assert found[f"h.{layer}.mlp.c_proj.weight"] == ("matrix", layer, C, 4 * C, (C, 4 * C))
    assert {s.layer for name, s in shapes.items() if not name.startswith("h.")} == {None}


def test_a_tied_weight_is_one_embedding() -> None:
    shapes = parameter_shapes(built())
    assert "lm_head.weight" not in shapes
    assert shapes["wte.weight"].role == "embedding"


class Odd(nn.Module):
    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, 5, 3)
        self.experts = nn.Parameter(torch.zeros(7, 4 * width, width))
        self.scale = nn.Parameter(torch.ones(()))
        shared = nn.Linear(width, 2, bias=False)
        self.h = nn.ModuleList([nn.Sequential(shared), nn.Sequential(shared)])


def test_convolutions_count_their_kernel_and_stacks_of_matrices_do_not() -> None:
    module = Odd()
    shapes = parameter_shapes(module)
    torchs = nn.init._calculate_fan_in_and_fan_out(module.conv.weight)
    assert (shapes["conv.weight"].fan_in, shapes["conv.weight"].fan_out) == torchs == (18, 15)
    assert (shapes["experts"].fan_in, shapes["experts"].fan_out) == (6, 24)
    assert (shapes["scale"].fan_in, shapes["scale"].fan_out, shapes["scale"].role) == (1, 1, "vector")


def test_a_shared_parameter_belongs_to_the_first_of_its_layers() -> None:
    assert parameter_shapes(Odd())["h.0.0.weight"].layer == 0


def test_base_fans_are_those_of_the_module_that_is_the_base() -> None:
    """swiglu rounds its width, so it does not grow exactly as the model does."""
    model, base = built(mlp="swiglu"), built(mlp="swiglu", n_embd=8)
    shapes = parameter_shapes(model, base, AdamW())
    down = shapes["h.1.mlp.c_proj.weight"]
    assert (down.fan_in, down.base_fan_in) == (64, 24)
    assert (down.fan_out, down.base_fan_out) == (C, 8)
    assert down.step_growth == pytest.approx((64 * 24 / (24 * 8)) ** 0.5)
    assert shapes["h.1.attn.c_attn.weight"].step_growth == pytest.approx(3)
    assert shapes["wte.weight"].base_fan_out == 8


def test_without_a_base_the_model_is_its_own() -> None:
    for shape in parameter_shapes(built()).values():
        assert (shape.base_fan_in, shape.base_fan_out) == (shape.fan_in, shape.fan_out)
        assert shape.step_growth == 1


def test_an_optimizer_that_knows_no_step_norm_leaves_the_growth_unknown() -> None:
    assert parameter_shapes(Odd(), Odd(3))["conv.weight"].step_growth is None


def test_a_base_of_other_parameters_is_refused_with_their_names() -> None:
    with pytest.raises(KitError, match=r"h\.2\.attn\.c_attn\.bias.* and 9 more; its base_model should change widths"):
        parameter_shapes(built(), built(n_layer=2))


@pytest.mark.parametrize("options", [{}, {"weight_tying": False, "bias": False}], ids=["tied", "untied"])
def test_without_multipliers_there_is_a_group_for_each_role(options: dict[str, object]) -> None:
    model = built(**options)
    model.h[1].requires_grad_(False)
    groups = parameter_groups(GPT2(), model, parameter_shapes(model))
    expected = parameters_by_role(model)
    assert [group["role"] for group in groups] == list(expected)
    for group in groups:
        assert list(map(id, group["params"])) == list(map(id, expected[group["role"]]))
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        assert group["names"] == [names[id(parameter)] for parameter in group["params"]]
        assert set(group) == {"params", "names", "rows", "role", "lr_multiplier", "group", "total_steps"}
        assert (group["lr_multiplier"], group["group"]) == (1, None)


def test_the_rows_of_queries_keys_and_values_are_known() -> None:
    model = built(n_head=4, n_kv_head=2, bias=False)
    shapes, width = parameter_shapes(model), model.wte.weight.shape[1]
    fused = {name: shape.rows for name, shape in shapes.items() if shape.rows}
    assert fused == {f"h.{layer}.attn.c_attn.weight": (width, width // 2, width // 2) for layer in range(len(model.h))}
    groups = parameter_groups(GPT2(), model, shapes, total_steps=7)
    assert {name: rows for one in groups for name, rows in zip(one["names"], one["rows"], strict=True) if rows} == fused
    assert {group["total_steps"] for group in groups} == {7}


class ByName(GPT2):
    def lr_multiplier(self, shape: ParameterShape) -> float:
        return 0.25 if "mlp" in shape.name else 0.5 if shape.role == "embedding" else 2.0


def test_each_role_and_multiplier_is_a_group_in_the_order_of_the_roles() -> None:
    model = built(bias=False)
    shapes = parameter_shapes(model)
    groups = parameter_groups(ByName(), model, shapes)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert [(group["role"], group["lr_multiplier"]) for group in groups] == [
        ("embedding", 0.5),
        ("vector", 2.0),
        ("matrix", 2.0),
        ("matrix", 0.25),
    ]
    assert [names[id(p)] for p in groups[3]["params"]] == [name for name in shapes if "mlp" in name]
    assert sum(len(group["params"]) for group in groups) == len(shapes)


def test_rates_are_described_where_they_differ() -> None:
    model = built(bias=False)
    for init, text in {ByName(): "embedding 0.001, vector 0.004, matrix 0.0005 to 0.004", GPT2(): ""}.items():
        optimizer = AdamW(lr=2e-3).build(parameter_groups(init, model, parameter_shapes(model)))
        assert describe_rates(rates_by_role(optimizer, peak_rates(optimizer))) == text


def test_an_init_of_another_signature_is_refused_when_it_is_defined() -> None:
    with pytest.raises(
        TypeError, match=r"Old\.apply\(self, model\) should be apply\(self, model, shapes\).*ParameterSh"
    ):

        class Old(Init):
            def apply(self, model: nn.Module) -> None: ...

    with pytest.raises(TypeError, match=r"Old\.lr_multiplier\(self, role\) should be lr_multiplier\(self, shape\)"):

        class Old(GPT2):
            def lr_multiplier(self, role: str) -> float:
                return 1.0


def test_arguments_of_an_init_may_have_other_names() -> None:
    class Renamed(GPT2):
        def apply(self, module: nn.Module, parameters: object, *, gain: float = 1.0) -> None: ...

        def lr_multiplier(self, p: ParameterShape) -> float:
            return 1.0


@pytest.mark.parametrize("multiplier", [-1.0, math.nan, math.inf, None, "1"])
def test_a_multiplier_that_is_not_one_is_refused_with_the_parameter(multiplier: Any) -> None:
    class Wrong(GPT2):
        def lr_multiplier(self, shape: ParameterShape) -> Any:
            return multiplier

    model = built(bias=False)
    with pytest.raises(KitError, match=rf"lr_multiplier of wte\.weight is {multiplier!r}: it should be a finite num"):
        parameter_groups(Wrong(), model, parameter_shapes(model))
