"""Roles: what optimizers and learning rates go by. Each trainable parameter has exactly one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nanogpt_kit.api import HeadLinear, ModelContext
from nanogpt_kit.components.model.gpt import GPT
from nanogpt_kit.nn.roles import parameters_by_role

L, C, V, ROWS, BLOCK = 4, 24, 37, 64, 13


def built(**options: object) -> nn.Module:
    return GPT(n_layer=L, n_head=3, n_embd=C, block_size=BLOCK, **options).build(ModelContext(vocab_size=V))


def names_by_role(model: nn.Module) -> dict[str, list[str]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {role: [names[id(parameter)] for parameter in found] for role, found in parameters_by_role(model).items()}


def test_every_parameter_has_one_role() -> None:
    model = built(bias=True)
    roles = parameters_by_role(model)
    assert [p.shape for p in roles["embedding"]] == [(ROWS, C), (BLOCK, C)]  # V = 37 is padded
    assert all(p.ndim == 1 for p in roles["vector"])
    assert len(roles["matrix"]) == 4 * L
    assert sum(len(found) for found in roles.values()) == len(list(model.parameters()))


def test_a_tied_head_is_an_embedding_and_an_untied_one_a_head() -> None:
    tied, untied = names_by_role(built()), names_by_role(built(weight_tying=False))
    assert "head" not in tied
    assert untied["head"] == ["lm_head.weight"]
    assert untied["embedding"] == tied["embedding"] == ["wte.weight", "position.wpe.weight"]
    assert untied["matrix"] == tied["matrix"]


@pytest.mark.parametrize("bias", [True, False])
def test_gains_and_biases_are_vectors_wherever_they_stand(bias: bool) -> None:
    found = names_by_role(built(bias=bias, qk_norm=True, mlp="swiglu", weight_tying=False))
    ends = {name.split(".", 2)[-1] for name in found["vector"] if name.startswith("h.")}
    gains = {"ln_1.weight", "ln_2.weight", "attn.q_norm.weight", "attn.k_norm.weight"}
    of_linears = {f"{part}.bias" for part in ("attn.c_attn", "attn.c_proj", "mlp.c_gate", "mlp.c_fc", "mlp.c_proj")}
    of_norms = {gain.replace("weight", "bias") for gain in gains}
    assert ends == gains | (of_linears | of_norms if bias else set())
    assert len(found["matrix"]) == 5 * L


def test_what_is_frozen_has_no_role() -> None:
    model = built()
    model.wte.weight.requires_grad_(False)
    model.h[2].requires_grad_(False)
    found = names_by_role(model)
    assert found["embedding"] == ["position.wpe.weight"]
    assert len(found["matrix"]) == 4 * (L - 1)
    assert not any(name.startswith("h.2.") for names in found.values() for name in names)


def test_the_bias_of_a_head_is_a_vector_and_more_dimensions_make_a_matrix() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = HeadLinear(3, 5, bias=True)
            self.conv = nn.Conv1d(3, 4, 2, bias=False)
            self.scale = nn.Parameter(torch.ones(()))

    assert names_by_role(Odd()) == {
        "vector": ["scale", "head.bias"],
        "head": ["head.weight"],
        "matrix": ["conv.weight"],
    }


def test_a_component_without_parameters_leaves_the_others_alone() -> None:
    found = names_by_role(built(norm={"use": "rmsnorm", "gain": False}, position="rope", bias=False))
    assert "vector" not in found
    assert found["embedding"] == ["wte.weight"]
